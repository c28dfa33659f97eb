"""Opens a model directory with transformers and compares its logits with expected ones.

    python open_saved.py DIR EXPECTED.safetensors    # EXPECTED holds input_ids [B, T] and logits [B, T, V]

Prints one JSON object: {"missing": [...], "unexpected": [...], "max_abs_diff": x, "rel_diff": ||a - b|| / ||b||}.
"""

import json
import sys

import torch
import transformers
from reference import EAGER, relative
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
folder, expected = sys.argv[1], load_file(sys.argv[2])
model, info = transformers.AutoModelForCausalLM.from_pretrained(
    folder, output_loading_info=True, dtype=torch.float32, local_files_only=True, **EAGER
)
with torch.no_grad():
    logits = model.eval()(expected['input_ids'].long()).logits
wanted = expected['logits'].double()
print(
    json.dumps(
        {
            'missing': sorted(info['missing_keys']),
            'unexpected': sorted(info['unexpected_keys']),
            'max_abs_diff': (logits.double() - wanted).abs().max().item(),
            'rel_diff': relative(logits, wanted),
        }
    )
)
