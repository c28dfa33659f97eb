"""Makes stories-goldens.json: what transformers generates from stories260K.gguf, greedily, after bos alone, in float32. Needs
accelerate beside transformers.

python test/session/stories-goldens.py ../shared/data/stories260K.gguf
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

path = Path(sys.argv[1])
config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
config.pad_token_id = None  # the file has 2**32 - 1, which stands for none
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config, dtype=torch.float32)
bos = torch.tensor([[config.bos_token_id]])
ids = model.generate(bos, attention_mask=torch.ones_like(bos), do_sample=False, max_new_tokens=250)[0].tolist()[1:]
(Path(__file__).parent / "stories-goldens.json").write_text(json.dumps(ids) + "\n")
