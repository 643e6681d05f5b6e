"""`python -m runtime.stream --schema`: the JSON schema of the emotion stream."""

import argparse

from runtime.stream import schema_text

parser = argparse.ArgumentParser(
    prog="python -m runtime.stream", description="Print the JSON schema of the emotion stream."
)
parser.add_argument("--schema", action="store_true", help="print it (there is nothing else to do)")
parser.parse_args()
print(schema_text(), end="")
