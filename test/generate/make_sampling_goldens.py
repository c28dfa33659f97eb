"""Makes sampling-goldens.json: the probabilities transformers draws from, for logits and options.

python test/generate/make_sampling_goldens.py     (transformers 5.23.0, torch 2.13.0)

The processors and their order are chosen by GenerationMixin itself.
"""

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

torch.manual_seed(20)
vocab = 24
model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_embd=8, n_layer=1, n_head=1))
neutral = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)

options = [
    {},
    {'temperature': 0.6},
    {'top_k': 5},
    {'top_p': 0.7},
    {'min_p': 0.15},
    {'repetition_penalty': 1.4},
    {'repetition_penalty': 0.8},
    {'temperature': 1.8, 'top_k': 9},
    {'temperature': 0.7, 'top_p': 0.9},
    {'temperature': 2.5, 'min_p': 0.1},
    {'top_k': 7, 'top_p': 0.8},
    {'top_k': 7, 'min_p': 0.2},
    {'top_p': 0.6, 'min_p': 0.05},
    {'top_k': 40, 'top_p': 0.001},
    {'min_p': 1.0},
    {'temperature': 1.3, 'top_k': 12, 'top_p': 0.85, 'min_p': 0.08, 'repetition_penalty': 1.2},
    {'temperature': 0.4, 'top_k': 20, 'top_p': 0.97, 'min_p': 0.01, 'repetition_penalty': 2.0},
]

cases = []
for index, given in enumerate(options):
    logits = torch.randn(vocab) * 1.5
    if given.get('top_k') in (5, 9):  # ties at the k-th
        logits[torch.topk(logits, given['top_k'] + 2).indices[-3:]] = logits.sort(descending=True).values[given['top_k']]
    history = torch.randint(vocab, (6,))
    config = GenerationConfig(**{**neutral, **given})
    processors = model._get_logits_processor(config, input_ids_seq_length=len(history), device='cpu')
    scores = processors(history[None], logits[None].clone())
    cases.append(
        {
            'options': given,
            'processors': [type(processor).__name__ for processor in processors],
            'history': history.tolist(),
            'logits': logits.tolist(),
            'probabilities': scores.softmax(-1)[0].tolist(),
        }
    )

path = Path(__file__).parent / 'sampling-goldens.json'
path.write_text('[\n' + ',\n'.join(json.dumps(case) for case in cases) + '\n]\n')
for case in cases:
    print(case['options'], case['processors'], sum(p > 0 for p in case['probabilities']))
