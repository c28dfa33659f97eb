"""Opens the multi-token-prediction module of a model directory with transformers' MtpModel and compares its logits.

    python open_mtp.py DIR EXPECTED.safetensors    # EXPECTED holds input_ids [B, T] and mtp.logits [B, T-1, V]

Prints one JSON object: {"missing": [], "max_abs_diff": x, "rel_diff": ||a - b|| / ||b||}; missing weights are listed
when MtpModel refuses the directory for them.
"""

import json
import re
import sys

import torch
import transformers
from reference import EAGER, mtp_hidden, open_mtp_model, relative
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
folder, expected = sys.argv[1], load_file(sys.argv[2])
main = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **EAGER)
try:
    mtp = open_mtp_model(main.eval())
except RuntimeError as error:
    print(json.dumps({'missing': re.findall(r"'([^']+)'", str(error).rpartition(':')[2])}))
    sys.exit()
with torch.no_grad():
    ids = expected['input_ids'].long()
    logits = main.lm_head(mtp_hidden(mtp, main.model(ids).last_hidden_state, ids))
wanted = expected['mtp.logits'].double()
print(
    json.dumps(
        {
            'missing': [],
            'max_abs_diff': (logits.double() - wanted).abs().max().item(),
            'rel_diff': relative(logits, wanted),
        }
    )
)
