// The whole program. The page and its backend answer on one address, so every path is relative to it.
const $ = (selector) => document.querySelector(selector);
const kept = "session";
let session = JSON.parse(sessionStorage.getItem(kept) ?? "null");
let posts = new Map(), early = null; // what is shown, and what came while it was being read
let socket, since;

/** What the server answers; throws with its words. */
async function ask(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (session) headers.Authorization = `Bearer ${session.access_token}`;
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const said = await answer.json();
  if (answer.ok) return said;
  if (answer.status === 401 && session) enter(null);
  throw new Error(said.error.message);
}

/** Somebody is signed in, or nobody. */
function enter(found) {
  session = found;
  since = undefined;
  listen();
  if (found) sessionStorage.setItem(kept, JSON.stringify(found));
  else sessionStorage.removeItem(kept);
  $("#enter").hidden = Boolean(found);
  $("#write").hidden = $("#who").hidden = !found;
  $("#email").textContent = found?.user.email ?? "";
}

async function signIn({ name, email, password }, way) {
  if (way === "signup") await ask("POST", "/auth/signup", { email, password });
  enter(await ask("POST", "/auth/login", { email, password }));
  if (way === "signup") await ask("POST", "/data/users", { name });
  await show();
}

/** Row-level security decides what comes: everybody's published posts, and one's own drafts. */
async function show() {
  const arrived = (early ??= []);
  const rows = await ask("GET", "/data/posts?order=created_at.desc,id.desc&limit=50").finally(() => (early = null));
  posts = new Map(rows.map((post) => [post.id, post]));
  arrived.forEach(change);
  draw();
}

function draw() {
  const order = (a, b) => b.created_at.localeCompare(a.created_at) || (b.id < a.id ? -1 : 1);
  $("#posts").replaceChildren(...[...posts.values()].sort(order).map(shown));
  $("#empty").hidden = posts.size > 0;
}

function change({ record, old_record }) {
  if (record) posts.set(record.id, record);
  else posts.delete(old_record.id);
}

/** The same rules decide of which changes one hears. After an absence it goes on from the last change. */
function listen() {
  socket?.close();
  const token = session ? `?token=${encodeURIComponent(session.access_token)}` : "";
  const mine = (socket = new WebSocket(`${location.origin.replace("http", "ws")}/realtime${token}`));
  mine.onopen = () => mine.send(JSON.stringify({ type: "subscribe", table: "posts", since }));
  mine.onmessage = ({ data }) => {
    if (mine !== socket) return;
    const said = JSON.parse(data);
    if (said.type === "subscribed") {
      since ??= said.since;
      show().catch(trouble);
    } else if (said.type === "change") {
      since = said.id;
      change(said);
      early?.push(said);
      draw();
    } else if (said.code === "REALTIME_SINCE_EXPIRED") {
      since = undefined;
      mine.close();
    }
  };
  mine.onclose = ({ code }) => {
    if (mine !== socket) return;
    if (code !== 1008) setTimeout(() => mine === socket && listen(), 1000 + 2000 * Math.random());
    else if (session) enter(null);
  };
}

function trouble(error) {
  $("#trouble").textContent = error.message;
  $("#trouble").hidden = false;
}

function shown(post) {
  const item = $("#post").content.firstElementChild.cloneNode(true);
  const mine = session?.user.id === post.author_id;
  item.classList.toggle("draft", !post.published);
  item.querySelector(".title").textContent = post.title;
  item.querySelector(".badge").textContent = mine ? (post.published ? "yours" : "your draft") : "published";
  item.querySelector("time").textContent = new Date(post.created_at).toLocaleString();
  const toggle = item.querySelector(".toggle"), remove = item.querySelector(".remove");
  toggle.hidden = remove.hidden = !mine;
  toggle.textContent = post.published ? "Take back" : "Publish";
  toggle.onclick = tried(async () => {
    await ask("PATCH", `/data/posts/${post.id}`, { published: !post.published });
    await show();
  });
  remove.onclick = tried(async () => {
    await ask("DELETE", `/data/posts/${post.id}`);
    await show();
  });
  return item;
}

/** A handler that says what went wrong. */
function tried(work) {
  return async (event) => {
    event.preventDefault();
    const button = event.submitter ?? event.currentTarget;
    button.disabled = true;
    $("#trouble").hidden = true;
    try {
      await work(event);
    } catch (error) {
      trouble(error);
    } finally {
      button.disabled = false;
    }
  };
}

$("#enter form").onsubmit = tried((event) =>
  signIn(Object.fromEntries(new FormData(event.target)), event.submitter.value));
$("#write form").onsubmit = tried(async (event) => {
  const form = event.target;
  await ask("POST", "/data/posts", { title: form.elements.title.value, published: event.submitter.value === "yes" });
  form.reset();
  await show();
});
$("#again").onclick = tried(show);
$("#leave").onclick = tried(async () => {
  enter(null);
  await show();
});

enter(session);
show().catch(trouble);
