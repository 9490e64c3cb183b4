// The page of lpnsr-serve: sends a picture, shows the progress, compares the result with it.
"use strict";

const $ = (id) => document.getElementById(id);
const images = { before: $("before").querySelector("img"), after: $("after").querySelector("img") };
const EXTENSIONS = { png: "png", jpeg: "jpg", webp: "webp", tiff: "tif" };

let file = null;
let request = null;
let urls = [];

// ---- Choosing a picture

function choose(chosen) {
  if (!chosen) return;
  file = chosen;
  $("name").textContent = file.name;
  $("start").disabled = request !== null;
  say("");
}

$("file").addEventListener("change", () => choose($("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}
window.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));

// ---- The token, where the server asks for one; --open puts it behind the address

$("token").value = decodeURIComponent(location.hash.slice(1));
if (location.hash) history.replaceState(null, "", location.pathname);

function authorized(headers) {
  const token = $("token").value.trim();
  return token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
}

// ---- Sending

function say(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

function show(share) {
  if (share === null) $("progress").removeAttribute("value");
  else $("progress").value = share;
}

function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0")).join("");
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (file && !request) send(file, $("format").value, $("seed").value);
});
$("cancel").addEventListener("click", () => request?.abort());

function send(sent, format, seed) {
  const name = randomName();
  const current = (request = new XMLHttpRequest());
  const query = new URLSearchParams({ format, seed });
  current.open("POST", `upscale?${query}`);
  current.responseType = "blob";
  const headers = authorized({ "Content-Type": "application/octet-stream", "X-Request-Id": name });
  for (const [key, value] of Object.entries(headers)) current.setRequestHeader(key, value);
  current.upload.onprogress = (event) => {
    if (event.loaded < event.total) show(event.loaded / event.total);
    say("Sending…");
  };
  current.upload.onload = () => {
    show(null);
    say("Waiting…");
    follow(name, current);
  };
  current.onload = () => (current.status === 200
    ? finish(sent, current.response, format, current.getResponseHeader("X-Lost"))
    : fail(current));
  current.onerror = () => say("The server cannot be reached; is it running?", true);
  current.onabort = () => say("Cancelled.");
  current.onloadend = () => busy(false);
  busy(true);
  current.send(sent);
}

function busy(is) {
  if (!is) request = null;
  $("progress").hidden = $("cancel").hidden = !is;
  $("start").disabled = is || !file;
  if (is) {
    show(0);
    $("download").hidden = true;
  }
}

async function follow(name, current) {
  while (request === current) {
    try {
      const answer = await fetch(`progress/${name}`, { headers: authorized({}) });
      const { done, total } = answer.ok ? await answer.json() : { done: 0, total: 0 };
      if (total && request === current) {
        show(done / total);
        say(`${done} of ${total} tiles`);
      }
    } catch {
      // The picture's own request tells.
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

async function fail(current) {
  let text = `The server answers ${current.status}.`;
  try {
    text = JSON.parse(await current.response.text()).error;
  } catch {
    // A proxy between us may answer anything.
  }
  if (current.status === 401) {
    $("secret").hidden = false;
    $("token").focus();
  }
  say(text, true);
}

// ---- Comparing

function finish(sent, result, format, lost) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [URL.createObjectURL(sent), URL.createObjectURL(result)];
  $("download").href = urls[1];
  $("download").download = `${sent.name.replace(/\.[^.]*$/, "")}_x4.${EXTENSIONS[format]}`;
  $("download").hidden = false;
  say(lost ? `Done; the format cannot keep: ${lost}.` : "Done.");
  $("result").hidden = false;
  $("view").classList.remove("single");
  images.before.onerror = () => $("view").classList.add("single");
  images.after.onerror = () => {
    $("result").hidden = true;
    say("Done. This browser does not show the format; download the file.");
  };
  images.after.onload = () => fit();
  images.before.src = urls[0];
  images.after.src = urls[1];
}

// Where the result lies in the view: its left upper corner, and pixels of the view per pixel of it.
const place = { x: 0, y: 0, zoom: 1 };

function draw() {
  const width = images.after.naturalWidth, height = images.after.naturalHeight;
  for (const image of Object.values(images)) {
    image.style.width = `${width}px`;
    image.style.height = `${height}px`;
    image.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.zoom})`;
    image.style.imageRendering = place.zoom > 2 ? "pixelated" : "auto";
  }
  $("zoom").textContent = `${Math.round(place.zoom * 100)}%`;
}

function smallest() {
  const { clientWidth, clientHeight } = $("view");
  return Math.min(clientWidth / images.after.naturalWidth, clientHeight / images.after.naturalHeight);
}

function fit() {
  place.zoom = Math.min(smallest(), 16);
  place.x = ($("view").clientWidth - images.after.naturalWidth * place.zoom) / 2;
  place.y = ($("view").clientHeight - images.after.naturalHeight * place.zoom) / 2;
  draw();
}

// The slider's line stays where it is, and so does the point of the picture under (x, y).
function zoom(factor, x = $("view").clientWidth / 2, y = $("view").clientHeight / 2) {
  const before = place.zoom;
  place.zoom = Math.min(16, Math.max(Math.min(1, smallest()) / 2, before * factor));
  place.x = x - (x - place.x) * (place.zoom / before);
  place.y = y - (y - place.y) * (place.zoom / before);
  draw();
}

function move(x, y) {
  place.x += x;
  place.y += y;
  draw();
}

function split(percent) {
  const bounded = Math.min(100, Math.max(0, percent));
  $("split").value = bounded;
  document.documentElement.style.setProperty("--split", `${bounded}%`);
}

$("split").addEventListener("input", () => split(Number($("split").value)));
$("in").addEventListener("click", () => zoom(1.5));
$("out").addEventListener("click", () => zoom(1 / 1.5));
$("fit").addEventListener("click", fit);
window.addEventListener("resize", () => $("result").hidden || fit());

$("view").addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = $("view").getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

const KEYS = {
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit,
  ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0),
  ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40),
};
$("view").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});

// One pointer drags the picture or the line, two zoom.
const pointers = new Map();

function distance() {
  const [a, b] = [...pointers.values()];
  return Math.hypot(a.x - b.x, a.y - b.y);
}

$("view").addEventListener("pointerdown", (event) => {
  $("view").setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, {
    x: event.clientX, y: event.clientY, onLine: event.target === $("line"),
  });
});
for (const kind of ["pointerup", "pointercancel"]) {
  $("view").addEventListener(kind, (event) => pointers.delete(event.pointerId));
}
$("view").addEventListener("pointermove", (event) => {
  const pointer = pointers.get(event.pointerId);
  if (!pointer) return;
  const before = { ...pointer };
  const apart = pointers.size === 2 && distance();
  Object.assign(pointer, { x: event.clientX, y: event.clientY });
  const box = $("view").getBoundingClientRect();
  if (apart) {
    const [a, b] = [...pointers.values()];
    zoom(distance() / apart, (a.x + b.x) / 2 - box.left, (a.y + b.y) / 2 - box.top);
  } else if (pointer.onLine) {
    split((100 * (event.clientX - box.left)) / box.width);
  } else {
    move(pointer.x - before.x, pointer.y - before.y);
  }
});
