# Makes gguf-goldens.gguf and gguf-goldens.json with the Python package gguf (0.19): every kind of metadata, every
# element type that hadal reads, and what gguf dequantizes them to. Weights are some of stories260K's.
#   python test/formats/gguf-goldens.py ../shared/data/stories260K.gguf
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFValueType, GGUFWriter, dequantize, quantize

here = Path(__file__).parent
weights = {t.name: t.data for t in GGUFReader(sys.argv[1]).tensors}
rows = np.concatenate([weights["blk.0.attn_k.weight"].reshape(-1)[:1024], -weights["token_embd.weight"].reshape(-1)[:1024]])

writer = GGUFWriter(here / "gguf-goldens.gguf", "llama")
writer.add_uint8("t.u8", 200)
writer.add_int8("t.i8", -100)
writer.add_uint16("t.u16", 60000)
writer.add_int16("t.i16", -30000)
writer.add_uint32("t.u32", 4000000000)
writer.add_int32("t.i32", -2000000000)
writer.add_float32("t.f32", 0.1)
writer.add_uint64("t.u64", 2**64 - 1)
writer.add_int64("t.i64", -(2**40))
writer.add_float64("t.f64", 0.1)
writer.add_bool("t.bool", True)
writer.add_string("t.string", "héllo ▁世界")
writer.add_array("t.strings", ["a", "", "ü"])
writer.add_array("t.floats", [0.5, -1.5])
writer.add_array("t.ints", [1, -2, 3])
writer.add_key_value("t.bools", [True, False], GGUFValueType.ARRAY, GGUFValueType.BOOL)

rng = np.random.default_rng(7)
goldens = {}
for kind in [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K, T.Q6_K]:
    if kind.name.endswith("_K"):  # gguf cannot make these: random codes under reasonable scales
        size = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}[kind.name]
        data = rng.integers(0, 256, (4, size), dtype=np.uint8)
        scales = rng.normal(0, 0.1, (4, 2)).astype(np.float16).view(np.uint8)
        if kind == T.Q6_K:
            data[:, 208:] = scales[:, :2]
        else:
            data[:, :4] = scales
    else:
        data = quantize(rows.reshape(4, 512), kind)
    numbers = dequantize(data, kind).astype(np.float32)
    writer.add_tensor(kind.name, data, raw_dtype=kind)
    goldens[kind.name] = {
        "shape": list(numbers.shape),
        "sha256": hashlib.sha256(numbers.tobytes()).hexdigest(),
        "first": [float(x) for x in numbers.reshape(-1)[:4]],
    }
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
(here / "gguf-goldens.json").write_text(json.dumps(goldens, indent=2) + "\n")
