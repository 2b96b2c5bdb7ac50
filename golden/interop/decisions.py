"""Decides a table of calls with the real OPA and with `autonomy policy eval`, and compares.

    decisions.py OPA AUTONOMY cases.json
"""

import json
import pathlib
import subprocess
import sys
import tempfile

NODE = "node-1"


def by_opa(opa, folder, call):
    """The decision rule of the product, over OPA's values: allow is exactly true, deny is a set of strings and empty."""
    command = [opa, "eval", "--format", "json", "--strict-builtin-errors", "--stdin-input", "--data", folder]
    done = subprocess.run(
        [*command, "data.autonomy"], input=json.dumps({**call, "node": {"id": NODE}}), capture_output=True, text=True
    )
    answer = json.loads(done.stdout)
    if done.returncode != 0 or "errors" in answer:
        return "deny", "evaluator_error"
    values = answer["result"][0]["expressions"][0]["value"] if answer.get("result") else {}
    allow, deny = values.get("allow", False), values.get("deny", [])
    if not isinstance(allow, bool) or not isinstance(deny, list) or not all(isinstance(d, str) for d in deny):
        return "deny", "type_error"
    if deny:
        return "deny", "; ".join(sorted(deny, key=str.encode))
    return ("allow", None) if allow else ("deny", "no_match")


def by_us(autonomy, folder, call):
    command = [autonomy, "policy", "eval", "--input", "-", "--in", folder, "--node-id", NODE, "--output", "json"]
    done = subprocess.run(command, input=json.dumps(call), capture_output=True, text=True)
    if done.returncode != 0:
        return f"exit {done.returncode}", done.stderr.strip()
    answer = json.loads(done.stdout)
    return answer["decision"], answer.get("reason")


def main():
    opa, autonomy, table = sys.argv[1:]
    passed, failed = 0, []
    for case in json.loads(pathlib.Path(table).read_text()):
        with tempfile.TemporaryDirectory() as folder:
            text = "package autonomy\n\n" + "\n".join(case["rego"]) + "\n"
            pathlib.Path(folder, "policy.rego").write_text(text)
            if "data" in case:
                pathlib.Path(folder, "data.json").write_text(json.dumps(case["data"]))
            for kind, params in case["calls"]:
                call = {"kind": kind, "params": params}
                theirs, ours = by_opa(opa, folder, call), by_us(autonomy, folder, call)
                if theirs == ours:
                    passed += 1
                else:
                    failed.append(f"{case['name']}: {json.dumps(call)}: OPA {theirs}, autonomy {ours}")
    for line in failed:
        print(f"interop: FAILED: {line}")
    print(f"interop: decisions beside OPA: {passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
