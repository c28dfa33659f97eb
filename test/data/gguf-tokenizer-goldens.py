"""Makes gguf-tokenizer-goldens.json: small vocabularies as GGUF metadata, and the ids that the tokenizers they come from
(sentencepiece; Hugging Face tokenizers) give. Where transformers' own GGUF reader agrees, that is asserted too.

python test/data/gguf-tokenizer-goldens.py ../shared/data/stories260K.gguf
"""

import json
import sys
import tempfile
from pathlib import Path

import sentencepiece
import transformers
from gguf import GGUFReader, GGUFWriter
from sentencepiece import sentencepiece_model_pb2 as sp_proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers.integrations.gguf.gguf_tokenizer_mapping import _LLAMA3_SPLIT, _QWEN2_SPLIT

here = Path(__file__).parent
texts = [
    "",
    " ",
    "   three spaces, then\n\n\ttabs  and trailing ",
    "Once upon a time, there was a little girl named Lily. She doesn't like 12345 rows.",
    "床前明月光，疑是地上霜。2024年 ひらがなとカタカナ",
    "👩‍👩‍👧 family 🏳️‍🌈 ok 👍🏽 é ñ ß \u200b \u00a0 \ufeff ﷽",
    "for (let i = 0; i < n; i++) { x[i] += `${y}`; } // ok_then\r\n",
    "e\u0301 n\u0303 decomposed",
    "aaaaaaaaaaaa bbbbbbb ▁▁ ▁x",
    "A quick brown fox. " * 20 + "x" * 300,
]
corpus = (here / "mixed.txt").read_text() + "\n".join(texts)
specials = ["<s>hi</s> you", "a<think>b <think> c"]
goldens = {}


def transformers_ids(arch, kind, entries, all_texts):
    """What transformers reads from a file with this vocabulary alone."""
    with tempfile.TemporaryDirectory() as folder:
        writer = GGUFWriter(Path(folder) / "x.gguf", arch)
        writer.add_tokenizer_model(kind)
        writer.add_token_list(entries["tokens"])
        writer.add_token_types(entries["types"])
        if "pre" in entries:
            writer.add_tokenizer_pre(entries["pre"])
        if "scores" in entries:
            writer.add_token_scores(entries["scores"])
        if "merges" in entries:
            writer.add_token_merges(entries["merges"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="x.gguf")
        return [tokenizer.encode(text, add_special_tokens=False) for text in all_texts]


# SentencePiece as Llama's is trained, on the corpus here.
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "corpus.txt").write_text(corpus)
    sentencepiece.SentencePieceTrainer.train(
        input=f"{folder}/corpus.txt", model_prefix=f"{folder}/m", model_type="bpe", vocab_size=500, byte_fallback=True,
        character_coverage=0.99, split_digits=True, remove_extra_whitespaces=False, normalization_rule_name="identity",
        allow_whitespace_only_pieces=True, user_defined_symbols=["<think>"], minloglevel=2)
    model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
    proto = sp_proto.ModelProto.FromString(Path(f"{folder}/m.model").read_bytes())


def sentencepiece_golden(name, tokens, scores, types, processor):
    entries = {"tokens": tokens, "scores": scores, "types": types}
    ids = [processor.encode(text) for text in texts]
    other = transformers_ids("llama", "llama", entries, texts)
    for text, ours, theirs in zip(texts, ids, other):
        # transformers' Metaspace puts no space before a text that begins with one; sentencepiece and llama.cpp do.
        assert ours == theirs or text.startswith(" "), (name, text, ours, theirs)
    return ids, [processor.decode(row) for row in ids]


tokens = [piece.piece for piece in proto.pieces]
scores = [piece.score for piece in proto.pieces]
types = [piece.type for piece in proto.pieces]  # sentencepiece's numbers are GGUF's
ids, decoded = sentencepiece_golden("trained", tokens, scores, types, model)
goldens["sentencepiece"] = {"tokens": tokens, "scores": scores, "types": types, "ids": ids, "decoded": decoded}

fields = GGUFReader(sys.argv[1]).fields
tokens, scores, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ["tokens", "scores", "token_type"])
proto = sp_proto.ModelProto()
proto.trainer_spec.model_type = 2
proto.trainer_spec.byte_fallback = True
proto.normalizer_spec.name = "identity"
proto.normalizer_spec.add_dummy_prefix = True
proto.normalizer_spec.remove_extra_whitespaces = False
proto.normalizer_spec.escape_whitespaces = True
for token, score, kind in zip(tokens, scores, types):
    proto.pieces.add(piece=token, score=score, type=kind)
processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
ids, decoded = sentencepiece_golden("stories", tokens, scores, types, processor)
goldens["stories260K"] = {"ids": ids, "decoded": decoded}

# Byte-level BPE with the splitting of each name.
for name, split, normalizer, ignore_merges in [
    ("gpt-2", None, None, False),
    ("llama-bpe", _LLAMA3_SPLIT, None, True),
    ("qwen2", _QWEN2_SPLIT, normalizers.NFC(), False),
]:
    tokenizer = Tokenizer(BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = (
        byte_level if split is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), byte_level])
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    types = [3 if token in ("<s>", "</s>") else 4 if token == "<think>" else 1 for token in tokens]
    entries = {"pre": name, "tokens": tokens, "merges": merges, "types": types}
    rows = texts + specials
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in rows]
    for text, ours, theirs in zip(rows, ids, transformers_ids("qwen2", "gpt2", entries, rows)):
        # A file does not say that Qwen2's tokenizer composes characters (NFC), and transformers does not know.
        assert ours == theirs or (name == "qwen2" and "\u0301" in text), (name, text, ours, theirs)
    decoded = [tokenizer.decode(row, skip_special_tokens=False) for row in ids]
    goldens[name] = {**entries, "ids": ids, "decoded": decoded}

goldens["texts"] = texts + specials
(here / "gguf-tokenizer-goldens.json").write_text(json.dumps(goldens, ensure_ascii=False, separators=(",", ":")) + "\n")
