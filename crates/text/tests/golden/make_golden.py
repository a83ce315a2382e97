"""Golden vectors for falaj-text, made by mistral-common, sentencepiece, tokenizers and jinja2.

    python make_golden.py               # the committed files: cut-down vocabularies and their vectors, here
    python make_golden.py --full OUT    # the same vectors over the whole vocabularies of mistral-common's wheel, in OUT

The vocabularies are cut so that the files stay small; the oracles run on the cut files, so every vector is still theirs.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
import mistral_common
import sentencepiece
import tokenizers
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from sentencepiece import sentencepiece_model_pb2 as proto

HERE = Path(__file__).parent
WHEEL = Path(mistral_common.__file__).parent / "data"
TEXTS = json.loads((HERE / "texts.json").read_text())
CASES = json.loads((HERE / "cases.json").read_text())
TEMPLATES = json.loads((HERE / "templates.json").read_text())
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Le temps qu'il fait", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "مدينة"}, "days": {"type": "integer", "minimum": 1}},
        "required": ["city"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
FIM = [["def add(a, b):\n    ", "\n    return c"], ["préfixe", ""], ["", "suffix"], ["أ", " ب"]]
NOW = 1732291200
SPM = {"v1": "tokenizer.model.v1", "v2": "mistral_instruct_tokenizer_240216.model.v2", "v3": "mistral_instruct_tokenizer_240323.model.v3",
       "v7": "mistral_instruct_tokenizer_241114.model.v7"}
OLD = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
       "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
NEW = [*OLD, "[ARGS]", "[CALL_ID]"]
TEKKEN = {"v3": None, "v7": None, "v11": NEW, "v13": [*NEW, "[THINK]", "[/THINK]"],
          "v15": [*NEW, "[THINK]", "[/THINK]", "[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"]}
SETTINGS = {"reasoning_effort": {"type": "enum", "accepts_none": True, "default": "none", "values": ["none", "high"]},
            "json_schema": {"type": "json_schema", "accepts_none": False, "default": None}}


def request(case):
    given = {key: value for key, value in case.items() if key not in ("tools", "response_schema")}
    if "tools" in case:
        given["tools"] = TOOLS[: case["tools"]]
    if "response_schema" in case:
        given["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": case["response_schema"], "strict": True}}
    return ChatCompletionRequest.model_validate(given)


def vectors(file):
    """What mistral-common makes of every text, conversation and hole. None where it refuses."""
    mistral = MistralTokenizer.from_file(file)
    plain = mistral.instruct_tokenizer.tokenizer
    texts = [plain.encode(text, bos=False, eos=False) for text in TEXTS]
    chats = {}
    for name, case in CASES.items():
        try:
            chats[name] = mistral.encode_chat_completion(request(case)).tokens
        except Exception as error:
            chats[name] = None
            print(f"{Path(file).name}: {name}: {type(error).__name__}: {str(error)[:100]}")
    fims = []
    for prompt, suffix in FIM:
        try:
            fims.append(mistral.encode_fim(FIMRequest(prompt=prompt, suffix=suffix)).tokens)
        except Exception:
            fims.append(None)
    return {"texts": texts, "decoded": [plain.decode(ids) for ids in texts], "chats": chats, "fims": fims}


def tekken(source, out, cut):
    data = json.loads(source.read_text())
    if cut:
        data["vocab"] = [{**token, "token_str": None} for token in data["vocab"][:cut]]
        data["config"] |= {"num_vocab_tokens": cut, "default_vocab_size": cut + 40, "default_num_special_tokens": 40}
    for key in ("multimodal", "image", "special_tokens"):
        data.pop(key, None)
    (out / "tekken.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    made = {}
    for version, names in TEKKEN.items():
        data["config"]["version"] = version
        if names:
            data["special_tokens"] = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)]
        if version == "v15":
            data["model_settings_builder"] = SETTINGS
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "tekken.json"
            file.write_text(json.dumps(data))
            made[version] = {"specials": names, "settings": SETTINGS if version == "v15" else None, **vectors(file)}
    return made


def cut_pieces(model, count):
    """Keeps the first `count` text pieces, characters of the texts, bytes and named control pieces."""
    wanted = set("".join(TEXTS))
    kept, normal = [], 0
    for piece in model.pieces:
        if piece.type == 1:
            normal += 1
            if normal > count and not (len(piece.piece) == 1 and piece.piece in wanted and ord(piece.piece) < 0x2600):
                continue
        if piece.piece.startswith("[control_"):
            continue
        kept.append(piece)
    del model.pieces[:]
    model.pieces.extend(kept)
    model.trainer_spec.vocab_size = len(kept)
    model.trainer_spec.ClearField("control_symbols")


def spm(out, cut):
    made = {}
    for version, name in SPM.items():
        target = out / f"tokenizer.model.{version}"
        model = proto.ModelProto.FromString((WHEEL / name).read_bytes())
        if cut:
            cut_pieces(model, cut)
        target.write_bytes(model.SerializeToString())
        made[version] = vectors(target)
        if version == "v1" and cut:
            made[version]["scores"] = [piece.score for piece in model.pieces]
    return made


def unigram(out):
    """A unigram model with a normalization table of its own, without byte fallback."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        lines = {"é": "e", "ﷲ": "الله", "  ": " ", "A": "a", "B": "b", "e\u0301": "e", "\u00a0": " ", "😀": ":)"}
        rules.write_text("".join(f"{' '.join(f'{ord(c):X}' for c in a)}\t{' '.join(f'{ord(c):X}' for c in b)}\n" for a, b in lines.items()))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text for text in TEXTS if text.strip() and "\0" not in text] * 40), model_prefix=f"{folder}/u", vocab_size=220,
            model_type="unigram", normalization_rule_tsv=str(rules), character_coverage=0.98, user_defined_symbols=["https", "==>"],
            hard_vocab_limit=False, minloglevel=2)
        shutil.copy(f"{folder}/u.model", out / "unigram.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(out / "unigram.model"))
    return {"texts": [model.encode(text) for text in TEXTS]}


SPLITS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
ADDED = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<|im_start|>", "<|im_end|>",
         "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def byte_level(out):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    def split(name):
        if name == "gpt-2":
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLITS[name]), behavior="isolated"),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = split("qwen2")
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(
        vocab_size=560, special_tokens=[AddedToken(name, special=True, normalized=False) for name in ADDED],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    made.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    made.save(str(out / "bytelevel.json"), pretty=False)
    parsed = [made.encode(text, add_special_tokens=False).ids for text in TEXTS]
    decoded = [made.decode(ids) for ids in parsed]
    pre = {}
    for name in ("qwen2", "llama-bpe", "gpt-2"):
        made.pre_tokenizer = split(name)
        made.encode_special_tokens = True
        pre[name] = [made.encode(text, add_special_tokens=False).ids for text in TEXTS]
    return {"parsed": parsed, "decoded": decoded, "pre": pre}


def llama_json(out):
    """A tokenizer.json as Hugging Face converts Llama 2's: SentencePiece BPE behind a normalizer."""
    model = proto.ModelProto.FromString((out / "tokenizer.model.v1").read_bytes())
    pieces = {piece.piece: at for at, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces}
    merges = []
    for merged, at in pieces.items():
        if model.pieces[at].type == 1 and len(merged) > 1:
            pairs = [(merged[:i], merged[i:]) for i in range(1, len(merged)) if merged[:i] in pieces and merged[i:] in pieces]
            merges += [(left, right, scores[merged]) for left, right in sorted(pairs, key=lambda p: (pieces[p[0]], pieces[p[1]]))]
    merges.sort(key=lambda merge: -merge[2])
    data = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                         for i, name in enumerate(["<unk>", "<s>", "</s>"])],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                     {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": pieces, "merges": [f"{a} {b}" for a, b, _ in merges]},
    }
    (out / "llama.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    made = tokenizers.Tokenizer.from_file(str(out / "llama.json"))
    parsed = [made.encode(text, add_special_tokens=False).ids for text in TEXTS]
    made.encode_special_tokens = True
    return {"parsed": parsed, "plain": [made.encode(text, add_special_tokens=False).ids for text in TEXTS], "decoded": [made.decode(ids) for ids in parsed]}


def rendered():
    """Templates as transformers renders them. None where the template refuses."""
    class Raised(Exception):
        pass

    def refuse(message):
        raise Raised(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    import datetime
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": refuse, "strftime_now": now.strftime}
    made = {}
    for name, source in TEMPLATES.items():
        template, made[name] = environment.from_string(source), {}
        for case_name, case in CASES.items():
            messages = []
            for message in case["messages"]:
                message = {key: value for key, value in message.items() if key != "prefix"}
                if isinstance(message["content"], list):
                    thinking = "".join(part["thinking"] for part in message["content"] if part["type"] == "thinking")
                    message["content"] = "".join(part["text"] for part in message["content"] if part["type"] == "text")
                    if thinking:
                        message["reasoning_content"] = thinking
                if "tool_calls" in message:
                    calls = []
                    for call in message["tool_calls"]:
                        try:
                            arguments = json.loads(call["function"]["arguments"])
                        except json.JSONDecodeError:
                            arguments = call["function"]["arguments"]
                        calls.append({"id": call["id"], "type": "function", "function": {"name": call["function"]["name"], "arguments": arguments}})
                    message["tool_calls"] = calls
                messages.append(message)
            if case["messages"][-1].get("prefix"):
                continue
            try:
                made[name][case_name] = template.render(
                    messages=messages, tools=TOOLS[: case["tools"]] if "tools" in case else None, documents=None, add_generation_prompt=True,
                    bos_token="<s>", eos_token="</s>")
            except Raised:
                made[name][case_name] = None
    return made


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--full", metavar="OUT", type=Path)
    out = arguments.parse_args().full
    full = out is not None
    out = out or HERE
    out.mkdir(parents=True, exist_ok=True)
    golden = {"tekken": tekken(WHEEL / "tekken_240911.json", out, 0 if full else 1000), "sentencepiece": spm(out, 0 if full else 260)}
    if not full:
        golden |= {"unigram": unigram(out), "byte_level": byte_level(out), "llama": llama_json(out), "rendered": rendered(), "now_s": NOW}
    golden |= {"tools": TOOLS, "fims": FIM}
    (out / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
