"""What Python makes of a GGUF file and of the directory that hadal saved it as.

    python open_gguf.py quantize FROM.gguf TO.gguf Q8_0        # writes a copy whose matrices are quantised by gguf
    python open_gguf.py compare FILE.gguf SAVED EXPECTED.safetensors TEXTS.json

EXPECTED holds input_ids [B, T] and hadal's logits [B, T, V]. `compare` prints one JSON object: names of parameters that
differ in any bit between transformers' reading of the file and SAVED, the relative difference between the logits of
SAVED and EXPECTED, and the ids of each text, if there are any, with what SAVED's tokenizer puts around them.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quantize
from safetensors.torch import load_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def write_quantized(source, target, kind):
    reader, kind = GGUFReader(source), GGMLQuantizationType[kind]
    writer = GGUFWriter(target, 'llama')
    for key, field in reader.fields.items():
        if key.startswith('GGUF.') or key == 'general.architecture':
            continue
        item = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], item)
    for tensor in reader.tensors:
        fits = len(tensor.shape) == 2 and tensor.shape[0] % 32 == 0
        data = quantize(tensor.data, kind) if fits else tensor.data
        writer.add_tensor(tensor.name, data, raw_dtype=kind if fits else tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare(gguf, saved, expected, texts):
    expected, texts = load_file(expected), json.loads(Path(texts).read_text())
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        saved, output_loading_info=True, dtype=torch.float32, local_files_only=True, attn_implementation='eager'
    )
    with torch.no_grad():
        logits = model.eval()(expected['input_ids'].long()).logits
    tensors = load_gguf_checkpoint(gguf, return_tensors=True, model_to_load=model)['tensors']
    own = dict(model.named_parameters())  # a tied head is there once
    wanted = expected['logits']
    tokenizer = texts and transformers.AutoTokenizer.from_pretrained(saved, local_files_only=True)
    print(
        json.dumps(
            {
                'missing': sorted(info['missing_keys']),
                'unexpected': sorted(info['unexpected_keys']),
                'differing': [name for name in own if name not in tensors or not torch.equal(own[name], tensors[name])],
                'rel_diff': ((logits - wanted).double().norm() / wanted.double().norm()).item(),
                'ids': [tokenizer.encode(text) for text in texts],
            }
        )
    )


{'quantize': write_quantized, 'compare': compare}[sys.argv[1]](*sys.argv[2:])
