// People who sign in at a real OpenID provider (npm `oidc-provider`), against a site of this test's own. What a lying provider is
// answered with is tested in crates/server/tests/it/people.rs.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

import Provider from "oidc-provider";

const binary = process.env.FALAJ_BIN;
if (!binary) throw new Error("set FALAJ_BIN, or run this through `cargo xtask test clients:node`");

const folder = mkdtempSync(join(tmpdir(), "falaj-oidc-"));
let provider, listening, site, url, issuer;
const environment = () => ({
  HOME: folder,
  PATH: process.env.PATH,
  FALAJ_DATA: join(folder, "data"),
  FALAJ_THREADS: "1",
  FALAJ_LOG: "info",
  FALAJ_OIDC_ISSUER: issuer,
  FALAJ_OIDC_CLIENT_ID: "falaj",
  FALAJ_OIDC_CLIENT_SECRET_FILE: join(folder, "secret"),
});
const admin = (...args) => execFileSync(binary, ["admin", ...args, "--json"], { env: environment() }).toString();

function freePort() {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

let log = "";

before(async () => {
  const [here, there] = [await freePort(), await freePort()];
  [url, issuer] = [`http://127.0.0.1:${here}`, `http://127.0.0.1:${there}`];
  provider = new Provider(issuer, {
    clients: [
      { client_id: "falaj", client_secret: "between us & nobody: else", redirect_uris: [`${url}/auth/callback`] },
    ],
    claims: { email: ["email", "email_verified"], profile: ["name"] },
    cookies: { keys: ["a key of this test"] },
    // Its login form takes any name: this one is the address.
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@health.example`, email_verified: id !== "unverified", name: id }),
    }),
  });
  listening = provider.listen(there, "127.0.0.1");
  writeFileSync(join(folder, "secret"), "between us & nobody: else\n");
  admin("organisation", "health", "--country", "MA");
  admin("workspace", "desk", "--organisation", "health");
  for (const name of ["amal", "unverified"]) admin("user", `${name}@health.example`, "--organisation", "health");
  site = spawn(binary, ["up", "--listen", url.slice("http://".length), "--json"], { env: environment() });
  site.stderr.on("data", (text) => (log += text));
  const ready = await createInterface({ input: site.stdout })[Symbol.asyncIterator]().next();
  assert.ok(!ready.done, `the site did not start: ${log}`);
});

after(async () => {
  if (site && site.exitCode === null) {
    const gone = once(site, "exit");
    site.kill();
    // It finishes its ledger first: a folder that it still writes to cannot be removed.
    await gone;
  }
  listening?.closeAllConnections();
  listening?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Follows redirects and keeps cookies of both hosts, as a browser does. */
class Browser {
  cookies = { site: new Map(), provider: new Map() };

  jar(address) {
    return address.startsWith(url) ? this.cookies.site : this.cookies.provider;
  }

  async ask(address, options = {}) {
    const jar = this.jar(address);
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
    const headers = { ...options.headers, ...(cookie && { cookie }) };
    const reply = await fetch(address, { ...options, headers, redirect: "manual" });
    for (const text of reply.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(text);
      if (value) jar.set(name, value);
      else jar.delete(name);
    }
    return reply;
  }

  /** Up to where the provider sends it back to; the address is not asked for. */
  async signInAs(name) {
    let reply = await this.ask(`${url}/auth/login?return_to=/auth/me`);
    let address = url;
    for (let step = 0; step < 20; step++) {
      if (reply.status === 302 || reply.status === 303) {
        address = new URL(reply.headers.get("location"), address).href;
        if (address.startsWith(`${url}/auth/callback`)) return address;
        reply = await this.ask(address);
        continue;
      }
      const page = await reply.text();
      assert.equal(reply.status, 200, page);
      const action = new URL(/action="([^"]+)"/.exec(page)[1], address).href;
      const prompt = /name="prompt" value="([^"]+)"/.exec(page)[1];
      const body = new URLSearchParams(prompt === "login" ? { prompt, login: name, password: "x" } : { prompt });
      reply = await this.ask(action, { method: "POST", body });
    }
    assert.fail("it never sent us back");
  }
}

test("an invited person signs in, works, and leaves", async () => {
  const browser = new Browser();
  const back = await browser.signInAs("amal");
  const reply = await browser.ask(back);
  assert.equal(reply.status, 303, await reply.text());
  assert.equal(reply.headers.get("location"), "/auth/me");
  const me = await (await browser.ask(`${url}/auth/me`)).json();
  assert.equal(me.email, "amal@health.example");
  assert.deepEqual(me.workspaces.map((it) => [it.name, it.roles]), [["desk", ["member"]]]);
  assert.equal((await browser.ask(`${url}/v1/files`)).status, 200);
  assert.equal((await browser.ask(`${url}/v1/usage`)).status, 403);
  // The same answer again, in this browser and in one that began a sign-in of its own.
  assert.equal((await browser.ask(back)).status, 400);
  const other = new Browser();
  await other.ask(`${url}/auth/login`);
  assert.equal((await other.ask(back)).status, 400);
  // A used code in a state that is this browser's.
  const fresh = new URL(await other.signInAs("amal"));
  const stolen = new URL(fresh);
  stolen.searchParams.set("code", new URL(back).searchParams.get("code"));
  assert.equal((await other.ask(stolen.href)).status, 400);
  const post = (headers) => browser.ask(`${url}/auth/logout`, { method: "POST", headers });
  assert.equal((await post({ origin: "https://evil.example" })).status, 403);
  const session = [...browser.cookies.site.values()];
  assert.equal((await post({ origin: url })).status, 200);
  assert.equal((await browser.ask(`${url}/auth/me`)).status, 401);
  const code = new URL(back).searchParams.get("code");
  for (const secret of [...session, code, "between us"]) assert.ok(!log.includes(secret), `the log holds ${secret}`);
});

test("who was not invited, or is not known to be who they say, stays out", async () => {
  for (const name of ["stranger", "unverified"]) {
    const browser = new Browser();
    const reply = await browser.ask(await browser.signInAs(name), { headers: { "accept-language": "fr" } });
    assert.equal(reply.status, 403);
    assert.match(await reply.text(), /personne ne vous a invité/);
    assert.equal((await browser.ask(`${url}/auth/me`)).status, 401);
  }
});

test("who is put out is out at once", async () => {
  const browser = new Browser();
  assert.equal((await browser.ask(await browser.signInAs("amal"))).status, 303);
  assert.equal((await browser.ask(`${url}/auth/me`)).status, 200);
  assert.equal(JSON.parse(admin("sign-out", "amal@health.example")).ended, 1);
  assert.equal((await browser.ask(`${url}/auth/me`)).status, 401);
});
