#!/usr/bin/env python3
"""Drives every operation of a node's OpenAPI document with a client that is generated from it.

    tests/openapi/drive.py HTTP TOKEN_FILE COMPONENT [--stop]

The arguments are those of drive.sh. The document is checked first, then openapi-python-client makes a client of it, and
each operation of the document is called through that client. Statuses that the document does not have are errors, and so
is an operation that was not called. Needs: pip install openapi-spec-validator openapi-python-client; openssl 3.
"""

import argparse
import base64
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("http", help="a node's address, such as http://127.0.0.1:7451")
parser.add_argument("token_file", help="the file `token` in its data folder")
parser.add_argument("component", help="a function that takes bytes, such as node/functions/digest/digest.wasm")
parser.add_argument("--stop", action="store_true", help="tell the node to stop at the end")
arguments = parser.parse_args()

work = tempfile.TemporaryDirectory()
folder = pathlib.Path(work.name)
(folder / "openapi.json").write_bytes(urllib.request.urlopen(arguments.http + "/openapi.json").read())
document = json.loads((folder / "openapi.json").read_bytes())
tags = {
    operation["operationId"]: operation["tags"][0]
    for path in document["paths"].values()
    for operation in path.values()
}
subprocess.run([sys.executable, "-m", "openapi_spec_validator", folder / "openapi.json"], check=True)
generate = ["generate", "--path", folder / "openapi.json", "--meta", "none", "--output-path", folder / "generated", "--fail-on-warning"]
subprocess.run([sys.executable, "-m", "openapi_python_client", *generate], check=True)
sys.path.insert(0, work.name)

generated = importlib.import_module("generated")
models = importlib.import_module("generated.models")
types = importlib.import_module("generated.types")
client = generated.AuthenticatedClient(
    base_url=arguments.http,
    token=pathlib.Path(arguments.token_file).read_text().strip(),
    raise_on_unexpected_status=True,
    timeout=90.0,
)

called = set()
wrong = 0


def call(expected, operation, *path, note="", **given):
    """Calls an operation through the generated client; returns what it made of the answer."""
    global wrong
    called.add(operation)
    module = importlib.import_module(f"generated.api.{tags[operation]}.{operation}")
    response = module.sync_detailed(*path, client=client, **given)
    status = int(response.status_code)
    verdict = "ok"
    if status != expected:
        verdict = f"WRONG, expected {expected}: {response.content[:400]!r}"
        wrong += 1
    print(f"{tags[operation]:9} {operation:24} {note:12} {status}    {verdict}")
    return response.parsed


def check(condition, sentence):
    global wrong
    if not condition:
        print("WRONG:", sentence)
        wrong += 1


def make(model, **fields):
    return getattr(models, model).from_dict(fields)


class Key:
    """An ed25519 key in a file of its own."""

    def __init__(self, name):
        self.path = folder / name
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self.path], check=True, capture_output=True)
        der = ["openssl", "pkey", "-in", self.path, "-pubout", "-outform", "DER"]
        self.public = subprocess.run(der, check=True, capture_output=True).stdout[-32:].hex()

    def sign(self, prepared):
        """The body of `apply`: the bytes of the change, signed for their purpose."""
        covered, signature = folder / "covered", folder / "signature"
        covered.write_bytes(b"shoal/change/v1\0" + base64.b64decode(prepared.bytes_))
        command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", self.path, "-in", covered, "-out", signature]
        subprocess.run(command, check=True)
        return make("Apply", change={"bytes": prepared.bytes_, "signature": signature.read_bytes().hex()})


unique = f"{int(time.time())}-{os.getpid()}"
name = f"generated-{unique}"
new, own = Key("new.pem"), Key("own.pem")

# Pages of the node itself.
for page in ["read_page", "read_health", "read_metrics", "read_document"]:
    call(200, page)

# Users.
call(200, "list_user", limit=10)
me = call(200, "get_user", "me").id
user = call(201, "create_user", body=make("NewUser", name=name)).id
call(200, "set_user", user, body=make("UserPatch", labels={"driven": "yes"}))
call(412, "set_user", user, body=make("UserPatch", labels={"driven": "no"}), if_match='"0000"', note="stale")
prepared = call(200, "user_prepare", "new", author=new.public, body=make("NewUser", name=f"signed-{unique}"))
founded = call(200, "user_apply", prepared.document, body=new.sign(prepared)).id
call(200, "user_add_key", me, body=make("AddKey", key=own.public, note="drive.py"))

# Projects.
call(200, "list_project")
project = call(201, "create_project", body=make("NewProject", name=name)).id
call(200, "get_project", project)
call(200, "set_project", project, body=make("ProjectPatch", labels={"driven": "yes"}))
prepared = call(200, "project_prepare", project, author=own.public, body=make("ProjectPatch", labels={"signed": "yes"}))
call(200, "project_apply", project, body=own.sign(prepared))
call(200, "project_add_member", project, body=make("Member", user=user))
call(200, "project_remove_member", project, body=make("Member", user=user))

# Blobs.
content = f"hello, {unique}".encode()
code = call(201, "create_blob", body=types.File(payload=pathlib.Path(arguments.component).read_bytes())).id
blob = call(201, "create_blob", body=types.File(payload=content), keep=True, name="driven").id
call(200, "list_blob")
check(call(200, "get_blob", blob).size == len(content), "the blob has another length")
call(200, "set_blob", blob, body=make("BlobPatch", name="renamed"))
call(200, "blob_keep", blob)
call(200, "blob_release", blob)
check(call(200, "read_blob_content", blob).payload.read() == content, "the blob has other bytes")
part = call(206, "read_blob_content", blob, range_="bytes=7-", note="range")
check(part.payload.read() == content[7:], "the range has other bytes")

# Functions.
function = call(201, "create_function", body=make("NewFunction", name=name, component=code, grants=["blob"])).id
call(200, "list_function", name=name)
call(200, "get_function", function)
call(200, "set_function", function, body=make("FunctionPatch", description="driven"))
call(200, "function_activate", function, body=make("Activate", version=1))
prepared = call(200, "function_prepare", function, author=own.public, body=make("FunctionPatch", description="signed"))
call(200, "function_apply", function, body=own.sign(prepared))

# Jobs.
job = call(202, "create_job", body=make("Submit", function=function, input={"text": "hello"})).id
batch = [make("Submit", function=function), make("Submit", function="no-such-function")]
check(len(call(202, "create_job", body=batch, note="batch")) == 2, "a batch of two has not two receipts")
call(200, "list_job", limit=5)
ended = call(200, "job_wait", job, body=make("Wait", timeout_ms=60_000))
check(ended.state == "succeeded", f"the job is {ended.state}")
call(200, "get_job", job)
check(call(200, "read_job_result", job).payload.read(), "the result is empty")
call(200, "read_job_logs", job)
waiting = call(202, "create_job", body=make("Submit", function=function, needs={"labels": {"nowhere": unique}})).id
call(200, "set_job", waiting, body=make("JobPatch", name="driven"))
check(call(200, "job_cancel", waiting).state == "cancelled", "the job is not cancelled")
call(204, "delete_job", waiting)
call(404, "get_job", waiting, note="forgotten")

# Keys and values.
call(200, "list_kv")
call(405, "create_kv")
call(200, "get_kv", "me")
call(200, "set_kv", project, body=make("SetKvBody", a={"text": "one"}, b=None))
call(200, "kv_set", project, body=make("Put", key="c", value={"text": "three"}))
check(call(200, "kv_get", project, body=make("Key", key="c")).value.text == "three", "the key has another value")
check(len(call(200, "kv_list", project, body=make("ListKeys")).items) == 2, "there are not two keys")
check(call(200, "kv_incr", project, body=make("Increment", key="n", amount=2)).value.counter == 2, "the counter is not 2")
local = models.KvCasScope("local")
call(200, "kv_cas", project, body=make("Put", key="d", value={"text": "x"}, version=0), scope=local)
call(412, "kv_cas", project, body=make("Put", key="d", value={"text": "y"}, version=0), scope=local, note="version")
call(200, "kv_watch", project, body=make("Key", key="c", timeout_ms=1000))
call(204, "kv_delete", project, body=make("Key", key="c"))
call(404, "kv_get", project, body=make("Key", key="c"), note="deleted")
call(204, "delete_kv", project)

# Workers.
worker = next(worker.id for worker in call(200, "list_worker").items if worker.attached)
call(200, "get_worker", worker)
call(201, "create_worker", body=make("NewWorker", name="driven"))
call(200, "set_worker", worker, body=make("WorkerPatch", cordoned=True))
call(200, "worker_uncordon", worker)
call(200, "worker_cordon", worker)
call(200, "worker_uncordon", worker)
call(204, "delete_worker", worker)

# Nodes.
node = call(200, "list_node").items[0].id
call(200, "get_node", node)
call(405, "create_node")
call(200, "set_node", node, body=make("NodePatch", labels={"driven": "yes"}))
call(200, "set_node", node, body=make("NodePatch", labels={"driven": None}))
call(405, "delete_node", node)

# And away again.
call(204, "delete_function", function)
call(204, "delete_project", project)
call(204, "delete_user", user)
call(204, "delete_user", founded)
call(204, "delete_blob", blob)
if arguments.stop:
    check(call(202, "node_stop", node).stopping, "the node does not stop")

left = set(tags) - called - (set() if arguments.stop else {"node_stop"})
check(not left, f"not called: {', '.join(sorted(left))}")
print(f"{len(called)} of {len(tags)} operations called, {wrong} wrong")
sys.exit(1 if wrong else 0)
