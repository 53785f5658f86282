"""A page on localhost while a run goes on: the picture with its boxes, rates, drops and counts; Prometheus beside it.

Only this machine can reach it. It shows, and takes nothing: no form, no argument, no file of the disk.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from vitc.errors import InputError

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>vitc watch</title><style>
body{font:15px system-ui,sans-serif;margin:1em;color:#222;background:#fafafa}img{max-width:100%;border:1px solid #ccc}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}
</style></head><body><h1>vitc watch</h1><p id="line">waiting for the first picture …</p><div id="pictures"></div>
<table id="stages"></table><table id="sources"></table><table id="counts"></table><p><a href="metrics">metrics</a></p>
<script>
const cell=(row,tag,text)=>{const c=document.createElement(tag);c.textContent=text;row.appendChild(c)};
const fill=(id,head,rows)=>{const t=document.getElementById(id);t.textContent="";
for(const [i,values] of [head,...rows].entries()){const r=t.insertRow();values.forEach(v=>cell(r,i?"td":"th",v))}};
async function tick(){try{const s=await (await fetch("state.json")).json();
document.getElementById("line").textContent=`${s.frames} frames, ${s.fps.toFixed(1)} FPS, `+
`latency p50 ${s.p50_ms.toFixed(1)} ms, p95 ${s.p95_ms.toFixed(1)} ms, ${s.dropped} dropped`;
fill("stages",["stage","p50 ms","p95 ms"],Object.entries(s.stages).map(([n,t])=>[n,t.p50.toFixed(1),t.p95.toFixed(1)]));
fill("sources",["source","shown","dropped","cuts"],s.sources.map(x=>[x.name,x.shown,x.dropped,x.cuts]));
fill("counts",["line","way","label","count"],s.counts);
const box=document.getElementById("pictures");while(box.children.length<s.sources.length){
const f=document.createElement("figure");f.appendChild(document.createElement("img"));box.appendChild(f)}
s.sources.forEach((x,i)=>{const m=box.children[i].firstChild;m.alt=x.name;
if(x.shown)m.src=`frame/${i}.jpg?${s.frames}`})
}catch(e){document.getElementById("line").textContent="the run has ended"}setTimeout(tick,500)}tick()
</script></body></html>"""


class LivePage:
    """Serves on 127.0.0.1:`port`, 0 for any free one, until `close`. `state` gives the numbers of now."""

    def __init__(self, port: int, sources: int, state: Callable[[], dict[str, Any]]) -> None:
        self._images: list[Image.Image | None] = [None] * sources
        self._state = state
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, body = page.answer(self.path.split("?")[0])
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(body if body is not None else b"there is nothing here\n")

            def log_message(self, format: str, *args: Any) -> None:
                pass  # a page that is looked at is no event

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--live cannot serve on port {port}: {error}; give another, or 0 for any") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def show(self, source: int, image: Image.Image) -> None:
        """The newest picture of a source. It is made a JPEG only when it is asked for."""
        self._images[source] = image

    def answer(self, path: str) -> tuple[str, bytes | None]:
        """(content type, body) of a path, None for one that is not served."""
        if path == "/":
            return "text/html; charset=utf-8", _PAGE.encode()
        if path == "/state.json":
            return "application/json", json.dumps(self._state()).encode()
        if path == "/metrics":
            return "text/plain; version=0.0.4; charset=utf-8", metrics(self._state()).encode()
        number = path.removeprefix("/frame/").removesuffix(".jpg")
        image = self._images[int(number)] if number.isdecimal() and int(number) < len(self._images) else None
        if image is None:
            return "text/plain; charset=utf-8", None
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=80)
        return "image/jpeg", sink.getvalue()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def metrics(state: dict[str, Any]) -> str:
    """The state in Prometheus' text format."""
    rows = [
        "# TYPE vitc_frames_total counter", f"vitc_frames_total {state['frames']}",
        "# TYPE vitc_fps gauge", f"vitc_fps {state['fps']:.6g}",
        "# TYPE vitc_latency_seconds summary",
        f'vitc_latency_seconds{{quantile="0.5"}} {state["p50_ms"] / 1e3:.6g}',
        f'vitc_latency_seconds{{quantile="0.95"}} {state["p95_ms"] / 1e3:.6g}',
        f"vitc_latency_seconds_count {state['frames']}",
    ]  # fmt: skip
    for name in ("shown", "dropped", "late", "damaged", "cuts", "returns"):
        rows.append(f"# TYPE vitc_source_{name}_total counter")
        rows += [f'vitc_source_{name}_total{{source="{_escaped(s["name"])}"}} {s[name]}' for s in state["sources"]]
    rows.append("# TYPE vitc_line_total counter")
    for line, way, label, count in state["counts"]:
        rows.append(f'vitc_line_total{{line="{_escaped(line)}",way="{way}",label="{_escaped(label)}"}} {count}')
    return "\n".join(rows) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
