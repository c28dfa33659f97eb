"""Writes tensorboard.golden: an event file by TensorBoard's own messages and record writer. Needs tensorboard."""

import pathlib

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

SCALARS = [(1, 'train/loss', 8.5), (2, 'train/loss', 0.1), (300, 'eval/loss', 3.25), (2**40 + 7, 'train/lr', 1e-20)]

with open(pathlib.Path(__file__).with_name('tensorboard.golden'), 'wb') as file:
    writer = RecordWriter(file)
    writer.write(event_pb2.Event(wall_time=1700000000.25, file_version='brain.Event:2').SerializeToString())
    for step, tag, value in SCALARS:
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
        writer.write(event_pb2.Event(wall_time=1700000001.5, step=step, summary=summary).SerializeToString())
    writer.flush()
