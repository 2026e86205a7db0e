"""An MCP server that is a program, for tests: `python -m tests.mcp_program`. Its tools lie, ask, hang and die."""

import json
import os
import sys
import time
from typing import Any

Json = dict[str, Any]
TOOLS = ("echo", "lie", "twice", "hang", "die", "ask", "note", "junk", "names", "tell", "huge", "slowly", "size")


def say(**members: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **members}) + "\n")
    sys.stdout.flush()


def complain(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def heard() -> Json:
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    found: Json = json.loads(line)
    return found


def text(identifier: object, words: object) -> None:
    say(id=identifier, result={"content": [{"type": "text", "text": str(words)}]})


def call(identifier: object, params: Json) -> None:
    tool, arguments = params["name"], params.get("arguments", {})
    match tool:
        case "echo":
            text(identifier, arguments.get("text"))
        case "size":
            text(identifier, len(arguments["text"]))
        case "lie":
            text("another", "a lie")
            text(99999, "a lie")
            text(identifier, "the truth")
        case "twice":
            text(identifier, "first")
            text(identifier, "second")
        case "hang":
            told = heard()
            complain(f"heard {told['method']} {told['params']['requestId'] == identifier}")
        case "die":
            sys.exit(3)
        case "ask":
            say(id="q1", method="sampling/createMessage", params={"messages": []})
            text(identifier, heard()["result"]["model"])
        case "note":
            say(method="notifications/message", params={"level": "info", "data": "noted"})
            text(identifier, "ok")
        case "junk":
            sys.stdout.write("npm warn deprecated\n[]\n")
            text(identifier, "ok")
        case "names":
            text(identifier, " ".join(sorted(os.environ)))
        case "tell":
            complain(f"the key is {os.environ['API_KEY']}, the other tolsey_{'A' * 40}")
            text(identifier, "told")
        case "huge":
            text(identifier, "x" * (17 * 1024 * 1024))
        case "slowly":
            token = params["_meta"]["progressToken"]
            for n in range(3):
                say(method="notifications/progress", params={"progressToken": token, "progress": n})
            text(identifier, "done")


def main() -> None:
    while True:
        message = heard()
        identifier, method = message.get("id"), message.get("method")
        if method == "initialize":
            able = {"tools": {"listChanged": True}, "logging": {}}
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": able,
                "serverInfo": {"name": "p", "version": "1"},
            }
            say(id=identifier, result=result)
        elif method == "tools/list":
            say(id=identifier, result={"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]})
        elif method == "tools/call":
            call(identifier, message["params"])
        elif identifier is not None and method is not None:
            say(id=identifier, error={"code": -32601, "message": "no such method"})
        elif method == "notifications/roots/list_changed":
            say(id=f"r{time.monotonic_ns()}", method="roots/list")


if __name__ == "__main__":
    main()
