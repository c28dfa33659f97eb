"""Prints what TensorBoard's own reader finds in a directory, as JSON: [[tag, step, value], ...]."""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'tensors': 0})
events.Reload()
tags = events.Tags()
found = [[tag, e.step, e.value] for tag in tags['scalars'] for e in events.Scalars(tag)]
found += [[tag, e.step, e.tensor_proto.float_val[0]] for tag in tags['tensors'] for e in events.Tensors(tag)]
print(json.dumps(found))
