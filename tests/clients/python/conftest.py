"""What every suite shares: where the site is, its gauges, and requests whose outcome does not hang on a model's skill.

`cargo xtask test` starts the site and sets the variables; to run by hand, start `falaj up` and set them yourself:
FALAJ_URL (http://127.0.0.1:PORT), FALAJ_KEY, FALAJ_MODEL.
"""

import os
import re
import time
import urllib.request

import pytest

URL = os.environ.get("FALAJ_URL", "")
KEY = os.environ.get("FALAJ_KEY", "")
MODEL = os.environ.get("FALAJ_MODEL", "falaj-seed")


def pytest_configure():
    if not URL or not KEY:
        pytest.exit("set FALAJ_URL and FALAJ_KEY, or run this through `cargo xtask test clients`", returncode=4)


@pytest.fixture(scope="session")
def url():
    return URL


@pytest.fixture(scope="session")
def key():
    return KEY


@pytest.fixture(scope="session")
def model():
    return MODEL


@pytest.fixture(scope="session")
def gauges():
    return Gauges()


class Gauges:
    """The site's own numbers, from /metrics."""

    def __getitem__(self, name):
        request = urllib.request.Request(URL + "/metrics", headers={"authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read().decode()
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"/metrics has no {name}"
        return sum(float(value) for value in found)

    def until(self, name, wanted, seconds=20):
        """Waits for a gauge to reach a value; the wait ends as soon as it does."""
        deadline = time.monotonic() + seconds
        while (value := self[name]) != wanted:
            assert time.monotonic() < deadline, f"{name} is still {value}, not {wanted}, after {seconds} s"
            time.sleep(0.02)


# A tool and a schema that any model can fill, because every part of them is bounded.
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Tunis", "Muscat", "Fès"]},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "enum": [1, 3, 7]},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}


def check_weather(arguments):
    assert set(arguments) == {"city", "unit", "days"}
    for name, value in arguments.items():
        assert value in WEATHER["properties"][name]["enum"], f"{name}: {value}"


CLOCK = {
    "type": "object",
    "properties": {"zone": {"type": "string", "enum": ["UTC", "Asia/Muscat"]}},
    "required": ["zone"],
    "additionalProperties": False,
}

TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "The weather in a city", "parameters": WEATHER},
    },
    {"type": "function", "function": {"name": "get_time", "description": "The time in a zone", "parameters": CLOCK}},
]

# The answer holds this word, whatever the model would have liked to say; `STOP` is in its middle.
CERTAIN = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": ["alphaSTOPomega"]}},
    "required": ["word"],
    "additionalProperties": False,
}

CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")

HELLO = [{"role": "user", "content": "Hello! Bonjour ! مرحبا"}]

TOO_LONG = "water " * 60_000

HUGE = "x" * (20 << 20)


def talks(count=40):
    """Lines to learn from, as both vendors document them."""
    line = '{"messages": [{"role": "user", "content": "Where is parcel %d?"}, {"role": "assistant", "content": "In hall %d."}]}'
    return "\n".join(line % (number, number % 7) for number in range(count)).encode()


def until(job, statuses, look):
    """Asks `look` until the job has one of these statuses."""
    deadline = time.monotonic() + 120
    while job.status not in statuses:
        assert time.monotonic() < deadline, f"{job.id} is still {job.status}"
        time.sleep(0.05)
        job = look(job.id)
    return job
