"""Drives HyperQueue for `shoal bench --peers`, which is HyperQueue's own client and starts its server and worker.

Says its version when it is ready. Then it reads a line at a time and answers each with a line of JSON:

    rate N          N jobs that make a file each, handed over one after the other: seconds until the last was
                    acknowledged, and until all files were there
    single N NAME   N such jobs, one at a time: seconds from submission to the file, of each

It ends with its input.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

FILE_EVERY_S = 0.0003
FILE_MAX_S = 60

# What HyperQueue prints is not for who asks.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(value):
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def touch(client, path):
    job = Job()
    job.program(["/bin/touch", path], stdout=None, stderr=None)
    client.submit(job)


def wait_for(path):
    begun = time.perf_counter()
    while not os.path.exists(path):
        if time.perf_counter() - begun > FILE_MAX_S:
            raise TimeoutError("a job that makes a file has not made it")
        time.sleep(FILE_EVERY_S)


def rate(client, count):
    # Its own way of waiting looks once a second: what the jobs have done is looked for instead.
    with tempfile.TemporaryDirectory(dir=".") as folder:
        paths = [os.path.join(os.path.abspath(folder), str(number)) for number in range(count)]
        begun = time.perf_counter()
        for path in paths:
            touch(client, path)
        submitted = time.perf_counter() - begun
        for path in reversed(paths):
            wait_for(path)
        return {"submitted": submitted, "ended": time.perf_counter() - begun}


def single(client, path):
    begun = time.perf_counter()
    touch(client, path)
    wait_for(path)
    return time.perf_counter() - begun


with LocalCluster(server_dir=os.path.join(os.getcwd(), "server")) as cluster:
    cluster.start_worker(WorkerConfig(cores=int(sys.argv[1])))
    client = cluster.client()
    single(client, os.path.abspath("warm"))
    answer(importlib.metadata.version("hyperqueue"))
    for line in sys.stdin:
        words = line.split()
        if words[0] == "rate":
            answer(rate(client, int(words[1])))
        else:
            answer([single(client, os.path.abspath(f"{words[2]}-{n}")) for n in range(int(words[1]))])
