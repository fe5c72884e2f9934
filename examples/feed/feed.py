#!/usr/bin/python3
"""Posts as server-sent events, and a chat over WebSocket, on SQLite. It knows nothing of replication but to wait for a lock.

  feed.py create       makes the database ($FEED_DB)
  feed.py serve PORT   serves it on 127.0.0.1

What is new is found by asking SQLite whether the file has changed (PRAGMA data_version), 50 times a second: whoever wrote it.
"""
import asyncio
import os
import pathlib
import sqlite3
import sys

from aiohttp import WSMsgType, web

SCHEMA = """
CREATE TABLE post (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE said (id INTEGER PRIMARY KEY, who TEXT NOT NULL, text TEXT NOT NULL);
"""
PAGE = pathlib.Path(__file__).with_name("page.html")


def connect():
    db = sqlite3.connect(os.environ["FEED_DB"], timeout=10, isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def write(statement, *args):
    """Runs on a thread: it may have to wait for a lock."""
    db = connect()
    try:
        return db.execute(statement, args).lastrowid
    finally:
        db.close()


async def rows_after(table, last):
    """Rows of the table with a greater id, for ever, each as soon as it is there."""
    db, version = connect(), None
    try:
        while True:
            now = db.execute("PRAGMA data_version").fetchone()[0]
            if now != version:
                version = now
                for row in db.execute(f"SELECT * FROM {table} WHERE id > ? ORDER BY id", (last,)):
                    last = row["id"]
                    yield row
            await asyncio.sleep(0.02)
    finally:
        db.close()


def newest(table):
    db = connect()
    try:
        return db.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]
    finally:
        db.close()


async def page(_):
    return web.FileResponse(PAGE)


async def post(request):
    pk = await asyncio.to_thread(write, "INSERT INTO post (text) VALUES (?)", (await request.post())["text"])
    return web.json_response({"id": pk})


async def events(request):
    """Posts from Last-Event-ID on (which browsers send when they connect again), or from now on."""
    last = request.headers.get("Last-Event-ID")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    await response.write(b": hello\n\n")
    async for row in rows_after("post", newest("post") if last is None else int(last)):
        data = "".join(f"data: {line}\n" for line in row["text"].splitlines())
        await response.write(f"id: {row['id']}\n{data}\n".encode())
    return response


async def chat(request):
    """{"who", "text"} in; {"id", "who", "text"} out, of everybody, beginning with the last 20."""
    socket = web.WebSocketResponse(heartbeat=20)
    await socket.prepare(request)

    async def tell():
        async for row in rows_after("said", max(0, newest("said") - 20)):
            await socket.send_json(dict(row))

    teller = asyncio.create_task(tell())
    try:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                said = message.json()
                await asyncio.to_thread(write, "INSERT INTO said (who, text) VALUES (?, ?)", said["who"], said["text"])
    except sqlite3.OperationalError:  # not the primary any more: close, and the page connects again
        await socket.close(code=1012, message=b"try again")
    finally:
        teller.cancel()
    return socket


async def upload(request):
    """Counts the bytes of a body of any size."""
    n = 0
    async for piece in request.content.iter_chunked(1 << 18):
        n += len(piece)
    return web.json_response({"bytes": n})


def serve(port):
    app = web.Application()
    app.add_routes([web.get("/", page), web.post("/post", post), web.get("/events", events), web.get("/chat", chat), web.post("/upload", upload)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, shutdown_timeout=1)


if __name__ == "__main__":
    if sys.argv[1:] == ["create"]:
        with connect() as conn:
            conn.execute("PRAGMA journal_mode = WAL")
            conn.executescript(SCHEMA)
    elif len(sys.argv) == 3 and sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        sys.exit(__doc__.strip())
