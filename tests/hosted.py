"""An application with the middleware, for tests/test_asgi.py: `HOSTED_CONFIG` names its config, `HOSTED_LOG` a file in
which it writes down what it was called with.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, Request, WebSocket
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from tolsey.asgi import Tolsey, price


def note(what: str) -> None:
    with Path(os.environ["HOSTED_LOG"]).open("a") as log:
        log.write(f"{what}\n")


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    note("up")
    yield
    note("down")


app = FastAPI(lifespan=lifespan)
app.add_middleware(Tolsey, config=os.environ["HOSTED_CONFIG"])
api = APIRouter(prefix="/v1")
below = FastAPI()


@app.get("/search")
@price("0.01 USD")
async def search(request: Request, q: str = "") -> dict[str, object]:
    return {"q": q, "headers": [[k, v] for k, v in request.headers.items()]}


@app.post("/echo")
@price("0 USD", price_per_request_mb="1 USD")
async def echo(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@api.get("/items/{item}")
@price("0.02 USD")
def item(item: str) -> dict[str, str]:
    return {"item": item}


@api.get("/files/{name:path}")
@price("0.03 USD")
def files(name: str) -> dict[str, str]:
    return {"name": name}


@below.get("/deep")
@price("0.04 USD")
async def deep() -> dict[str, str]:
    return {}


@app.get("/unpriced")
async def unpriced() -> dict[str, str]:
    note("unpriced")
    return {}


@app.get("/cheap")
async def cheap() -> dict[str, str]:
    return {}


@app.get("/fails")
@price("0.01 USD")
async def fails() -> None:
    raise RuntimeError("as told")


@app.get("/teapot")
@price("0.01 USD")
async def teapot() -> None:
    raise HTTPException(418)


@app.get("/away")
@price("0.01 USD")
async def away() -> RedirectResponse:
    return RedirectResponse("/search")


@app.get("/bytes/{count}")
@price("0 USD", price_per_response_mb="1 USD")
async def many(count: int) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for start in range(0, count, 50_000):
            yield b"x" * min(50_000, count - start)

    return StreamingResponse(body())


class Noted(StreamingResponse):
    """Says when it is over. Its body cannot: where the client leaves during a send, Starlette leaves
    that to the garbage collector, which comes when it likes.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            note("the stream ended")


@app.get("/events")
@price("0 USD", price_per_second="0.01 USD")
async def events() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"data: %d\n\n" % number
            await asyncio.sleep(0.05)

    return Noted(body(), media_type="text/event-stream")


@app.get("/breaks")
@price("0.01 USD")
async def breaks() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("as told")

    return StreamingResponse(body())


@app.get("/told")
@price(reported={"header": "x-cost", "each": "1 USD"}, at_most="0.5 USD")
async def told() -> JSONResponse:
    return JSONResponse({}, headers={"X-Cost": "0.125", "Tolsey-Cost": "0 USD"})


@app.get("/slow")
@price("0.01 USD")
async def slow() -> dict[str, str]:
    note("slow began")
    await asyncio.sleep(0.5)
    note("slow ended")
    return {}


@app.get("/later")
@price("0.01 USD")
async def later(tasks: BackgroundTasks) -> dict[str, str]:
    async def after() -> None:
        await asyncio.sleep(0.3)
        note("the task ran")

    tasks.add_task(after)
    return {}


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    note("socket")
    await websocket.accept()


app.include_router(api)
app.mount("/below", below)
