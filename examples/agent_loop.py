#!/usr/bin/env python3
"""An agent's loop over its tools, as seen by the runtime's callers. Standard library only.

    autonomy run -- python3 examples/agent_loop.py

AUTONOMY_RUNTIME_URL says where the runtime is; `autonomy run` sets it.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

# What a model would ask for; here the list is fixed.
PLAN = [
    ("tool.echo", {"message": "hello"}),
    ("tool.shell", {"argv": ["id"]}),
    ("tool.echo", {"message": "grüße 你好"}),
    ("tool.unknown", {}),
]
TRIES = 5


def call(url, kind, params):
    """Asks for one tool call; returns the status and the answer.

    A 503 was not decided, or not durably: it is tried again after Retry-After. Every other answer is final. A
    connection that breaks says nothing about whether the tool ran, so it is not tried again here.
    """
    body = json.dumps({"kind": kind, "params": params, "agent": "example"}).encode()
    for attempt in range(1, TRIES + 1):
        request = urllib.request.Request(
            url + "/v1/tool", data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            answer = json.load(refusal)
            if refusal.code != 503 or attempt == TRIES:
                return refusal.code, answer
            wait = float(refusal.headers.get("Retry-After") or 1)
            print(f"{kind}: 503 {answer.get('reason')}, again in {wait:g} s")
            time.sleep(wait)


def main():
    url = os.environ.get("AUTONOMY_RUNTIME_URL")
    if not url:
        print("AUTONOMY_RUNTIME_URL is not set; use: autonomy run -- python3 examples/agent_loop.py", file=sys.stderr)
        return 2
    proxies = urllib.request.ProxyHandler({})  # the runtime is on this machine
    urllib.request.install_opener(urllib.request.build_opener(proxies))
    for kind, params in PLAN:
        status, answer = call(url, kind, params)
        if status == 200:
            print(f"{kind}: allow, output {json.dumps(answer['output'], ensure_ascii=False)}")
        elif answer["decision"] == "allow":
            # Allowed, and the tool failed: the model should hear of it.
            print(f"{kind}: allow, failed with {status}: {answer['error']}")
        else:
            # Denied: the reason is for people and for the log; an agent goes on without the tool.
            print(f"{kind}: deny, {answer['reason']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
