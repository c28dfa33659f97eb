"""Parquet files of pyarrow (26.0.1) for parquet.test.ts: every codec, encoding and page version a text column may have."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "parquet")
texts = [None if i % 7 == 3 else f"Text {i % 40}: {'very ' * (i % 5)}long 长 🐙" for i in range(300)]
with open(os.path.join(here, "texts.json"), "w") as file:
    json.dump(texts, file, ensure_ascii=False)
table = pa.table({"id": range(300), "text": texts, "meta": [{"lang": "en"}] * 300, "words": [["a", "b"]] * 300})
options = {"row_group_size": 130, "data_page_size": 700}
for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
    pq.write_table(table, os.path.join(here, f"{codec}.parquet"), compression=codec, **options)
for encoding in ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"]:
    for version in ["1.0", "2.0"]:
        pq.write_table(
            table.select(["text"]),
            os.path.join(here, f"{encoding.lower()}-{version}.parquet"),
            use_dictionary=False,
            column_encoding={"text": encoding},
            data_page_version=version,
            write_page_checksum=True,
            **options,
        )
required = pa.schema([pa.field("text", pa.large_string(), nullable=False)])
filled = pa.table({"text": [text or "" for text in texts]}, schema=required)
pq.write_table(filled, os.path.join(here, "required.parquet"), data_page_version="2.0", **options)
