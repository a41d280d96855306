"use strict";
// The error browser: filters, sorts and pages the utterances of the block "data". Only the page on show is in the document, so
// that 10,000 utterances stay quick. Every text of the data goes in by textContent, never as markup.
(() => {
  const PAGE = 20; // utterances on show
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  if (!data.utterances.length) return;
  // Places within an utterance and within what a system made of it (components/report/browser.py).
  const [SET, ID, SPEAKER, LANGUAGE, SECONDS, REFERENCE, COMPARED, CLIP, SAID] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const [TEXT, FORM, OPERATIONS, SUBSTITUTIONS, DELETIONS, INSERTIONS, KIND, OTHERS] = [0, 1, 2, 3, 4, 5, 6, 7];
  const fields = { set: $("f-set"), kind: $("f-kind"), first: $("f-first"), second: $("f-second"), sort: $("f-sort"), text: $("f-text"), audio: $("f-audio") };
  const systems = data.systems;
  const shown = new Set(systems.keys());
  let found = [], page = 0, current = 0, playing = null;

  function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) if (value !== "" && value !== false) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const errors = (said) => (said ? said[SUBSTITUTIONS] + said[DELETIONS] + said[INSERTIONS] : 0);
  const words = (text) => text.split(" ").filter(Boolean);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  // ── which utterances, in which order ──
  const haystacks = new Map();
  function haystack(each) {
    if (!haystacks.has(each)) {
      const texts = each[SAID].map((said) => (said ? said[TEXT] : ""));
      haystacks.set(each, [each[ID], each[SPEAKER], each[REFERENCE], ...texts].join("\n").toLowerCase());
    }
    return haystacks.get(each);
  }

  const KINDS = {
    "": () => true,
    any: (said) => errors(said) > 0,
    substitution: (said) => said[SUBSTITUTIONS] > 0,
    deletion: (said) => said[DELETIONS] > 0,
    insertion: (said) => said[INSERTIONS] > 0,
    text: (said, each) => !data.speech[each[SET]] && said[TEXT].trim() !== "",
  };

  function select() {
    const kind = fields.kind.value, set = fields.set.value, text = fields.text.value.trim().toLowerCase();
    const of = KINDS[kind] || ((said) => said[KIND] === kind);
    const by = fields.first.value === "" ? [...shown] : [Number(fields.first.value)];
    found = data.utterances.filter((each) =>
      (set === "" || each[SET] === Number(set)) &&
      (!fields.audio.checked || each[CLIP] >= 0) &&
      by.some((system) => each[SAID][system] && of(each[SAID][system], each)) &&
      (text === "" || haystack(each).includes(text)));
    sort(by);
    page = current = 0;
  }

  function sort(by) {
    const second = Number(fields.second.value);
    const own = (each) => by.reduce((sum, system) => sum + errors(each[SAID][system]), 0);
    const mean = (each) => own(each) / by.filter((system) => each[SAID][system]).length; // silence is not a text without errors
    const difference = (each, sign) => (each[SAID][second] ? sign * (mean(each) - errors(each[SAID][second])) : Infinity); // last
    const value = {
      errors: (each) => -own(each), worse: (each) => difference(each, -1), better: (each) => difference(each, 1), seconds: (each) => -each[SECONDS], id: () => 0,
    }[fields.sort.value];
    const keyed = found.map((each, place) => [value(each), place, each]); // ties stay in the order of damage
    if (fields.sort.value === "id") keyed.sort((a, b) => (a[2][ID] < b[2][ID] ? -1 : a[2][ID] > b[2][ID] ? 1 : a[1] - b[1]));
    else keyed.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    found = keyed.map((entry) => entry[2]);
  }

  // ── one utterance ──
  /** Columns of words: the reference's, and before, between and after them room for the most words that a system inserted there. */
  function columns(each, list) {
    const reference = words(each[COMPARED] === 0 ? each[REFERENCE] : each[COMPARED]);
    const gaps = Array.from({ length: reference.length + 1 }, () => 0);
    const rows = list.map((system) => {
      const said = each[SAID][system], row = { at: [], before: gaps.map(() => []) };
      const spoken = words(said[FORM] === 0 ? said[TEXT] : said[FORM]);
      let place = 0, word = 0;
      for (const letter of said[OPERATIONS]) {
        if (letter === "I") row.before[place].push(spoken[word++]);
        else row.at[place++] = letter === "D" ? ["D", "–"] : [letter, spoken[word++]];
      }
      row.before.forEach((inserted, gap) => { gaps[gap] = Math.max(gaps[gap], inserted.length); });
      return row;
    });
    const made = [];
    gaps.forEach((most, gap) => {
      for (let number = 0; number < most; number++) {
        made.push(["", ...rows.map((row) => (number < row.before[gap].length ? ["I", row.before[gap][number]] : ["", ""]))]);
      }
      if (gap < reference.length) made.push([reference[gap], ...rows.map((row) => row.at[gap])]);
    });
    return made;
  }

  const NAMES = { S: "substituted", D: "deleted", I: "inserted" };
  /** Tables of aligned words, each as many columns as fit the width; a longer one would have to be scrolled to be read. */
  function alignment(each, list, room) {
    const longest = Math.min(18, Math.max(9, ...list.map((system) => systems[system].length)));
    const wide = (column) => 1.7 + Math.max(column[0].length, ...column.slice(1).map(([letter, word]) => word.length + (NAMES[letter] ? 1.2 : 0)));
    const lines = [[]];
    let used = longest + 2;
    for (const column of columns(each, list)) {
      if (used + wide(column) > room && lines[lines.length - 1].length) { lines.push([]); used = longest + 2; }
      lines[lines.length - 1].push(column);
      used += wide(column);
    }
    return lines.filter((line) => line.length).map((line, number) => {
      const body = make("tbody");
      const language = { lang: each[LANGUAGE] };
      body.append(make("tr", { class: "ref" }, make("th", { scope: "row" }, "reference"), ...line.map((column) => make("td", language, column[0]))));
      list.forEach((system, row) => {
        body.append(make("tr", {}, make("th", { scope: "row", title: systems[system] }, systems[system]), ...line.map((column) => {
          const [letter, word] = column[row + 1];
          if (!NAMES[letter]) return make("td", language, word);
          return make("td", language, make("span", { class: letter, title: NAMES[letter] }, word, make("sup", {}, letter)));
        })));
      });
      return make("div", { class: "box aligned" }, make("table", { "aria-label": `Words aligned, part ${number + 1}` }, body));
    });
  }

  /** The texts as they were written, made when they are first looked at. */
  function raw(each, list) {
    const most = Math.max(0, ...list.map((system) => each[SAID][system][OTHERS].length));
    const box = make("details", { class: "raw" }, make("summary", {}, most ? "Texts as written, n-best" : "Texts as written"));
    box.addEventListener("toggle", () => box.append(written(each, list)), { once: true });
    return box;
  }

  function written(each, list) {
    const text = (content) => (content.trim() ? make("span", { lang: each[LANGUAGE], dir: "auto" }, content) : make("span", { class: "none" }, "no text"));
    const rows = make("dl", {}, make("dt", {}, "reference"), make("dd", {}, text(each[REFERENCE])));
    for (const system of list) {
      const said = each[SAID][system], cell = make("dd", {}, text(said[TEXT]));
      if (said[OTHERS].length) {
        cell.append(make("ol", { start: 2, "aria-label": `n-best of ${systems[system]}` }, ...said[OTHERS].map(([other, score]) =>
          make("li", {}, text(other), score === null ? "" : make("small", {}, ` ${score.toFixed(2)}`)))));
      }
      rows.append(make("dt", {}, systems[system]), cell);
    }
    return rows;
  }

  function counted(each, list) {
    return list.map((system) => {
      const said = each[SAID][system];
      const parts = [["S", SUBSTITUTIONS], ["D", DELETIONS], ["I", INSERTIONS]].filter(([, place]) => said[place]).map(([letter, place]) => said[place] + letter);
      return `${systems[system]} ${parts.join(" ") || "0"}${said[KIND] ? ` (${said[KIND] === "text" ? "text on silence" : said[KIND]})` : ""}`;
    }).join(" · ");
  }

  function card(each, number, room) {
    const list = [...shown].sort((a, b) => a - b).filter((system) => each[SAID][system]);
    const about = [data.sets[each[SET]], each[SPEAKER] && `speaker ${each[SPEAKER]}`, each[LANGUAGE], `${each[SECONDS].toFixed(1)} s`].filter(Boolean);
    const head = make("div", { class: "head" }, make("h3", {}, each[ID]), make("span", { class: "facts" }, about.join(" · ")));
    if (each[CLIP] >= 0) {
      const button = make("button", { type: "button", "aria-label": `Play ${each[ID]}` }, "▶ Play");
      button.addEventListener("click", () => toggle(item, each));
      head.append(button);
    } else head.append(make("span", { class: "facts none" }, "audio is not in this page"));
    const item = make("li", { tabindex: number === current ? "0" : "-1" }, head, make("div", { class: "facts head" }, make("span", { class: "facts" }, counted(each, list))),
      ...alignment(each, list, room), raw(each, list));
    item.addEventListener("focusin", () => roam(number));
    return item;
  }

  // ── audio ──
  function toggle(item, each) {
    if (each[CLIP] < 0) { announce(`No audio of ${each[ID]} in this page.`); return; }
    let audio = item.querySelector("audio");
    if (!audio) {
      const bytes = Uint8Array.from(atob(JSON.parse($(`clip-${each[CLIP]}`).textContent)), (letter) => letter.charCodeAt(0));
      audio = make("audio", { controls: "", preload: "auto", "aria-label": `Audio of ${each[ID]}` });
      audio.controls = true;
      audio.src = URL.createObjectURL(new Blob([bytes], { type: "audio/flac" }));
      const button = item.querySelector("button");
      audio.addEventListener("play", () => { if (playing && playing !== audio) playing.pause(); playing = audio; button.textContent = "❚❚ Pause"; });
      audio.addEventListener("pause", () => { button.textContent = "▶ Play"; });
      audio.addEventListener("error", () => announce(`The audio of ${each[ID]} can't be played by this browser.`));
      item.querySelector(".head").after(audio);
    }
    if (audio.paused) audio.play().catch(() => {}); else audio.pause();
  }

  function silence() {
    for (const audio of $("list").querySelectorAll("audio")) { audio.pause(); URL.revokeObjectURL(audio.src); }
    playing = null;
  }

  // ── the page on show ──
  function room() {
    const probe = make("span", { class: "aligned" }, make("table", {}, make("tbody", {}, make("tr", {}, make("td", {}, "0".repeat(50))))));
    $("list").append(probe);
    const letter = probe.querySelector("td").getBoundingClientRect().width / 51;
    probe.remove();
    return $("list").clientWidth / letter - 3;
  }

  function announce(text) { $("status").textContent = text; }

  function render() {
    silence();
    const pages = Math.max(1, Math.ceil(found.length / PAGE)), first = page * PAGE, width = room();
    $("list").replaceChildren(...found.slice(first, first + PAGE).map((each, number) => card(each, number, width)));
    reach();
    const reached = Math.min(found.length, first + PAGE);
    const all = found.length === data.utterances.length ? "" : ` (of ${data.utterances.length})`;
    announce(found.length ? `${first + 1} to ${reached} of ${plural(found.length, "utterance")}${all}.` : "No utterance fits these filters.");
    $("place").textContent = `page ${page + 1} of ${pages}`;
    $("previous").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
    $("pager").hidden = pages < 2;
  }

  /** Lets the keyboard into the tables that have to be scrolled: a word may be wider than the room. */
  function reach() {
    for (const box of $("list").querySelectorAll(".aligned")) {
      if (box.scrollWidth <= box.clientWidth) continue;
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", box.firstChild.getAttribute("aria-label"));
    }
  }

  function roam(number) {
    const items = $("list").children;
    if (items[current]) items[current].tabIndex = -1;
    current = number;
    items[current].tabIndex = 0;
  }

  function turn(by, at) {
    const to = page + by;
    if (to < 0 || to * PAGE >= found.length) return false;
    page = to;
    current = 0;
    render();
    go(at === "last" ? $("list").children.length - 1 : 0);
    return true;
  }

  function go(number) {
    const item = $("list").children[number];
    if (!item) return;
    roam(number);
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    const inside = $("list").contains(document.activeElement);
    const to = inside ? current + by : current;
    if (to < 0) turn(-1, "last");
    else if (to >= $("list").children.length) turn(1);
    else go(to);
  }

  function update() { select(); render(); remember(); }

  // ── filters in the address, so that a view can be linked to ──
  function remember() {
    const query = new URLSearchParams();
    if (fields.set.value !== "") query.set("set", data.sets[fields.set.value]);
    if (fields.kind.value) query.set("kind", fields.kind.value);
    if (fields.first.value !== "") query.set("first", systems[fields.first.value]);
    if (Number(fields.second.value) !== standard()) query.set("second", systems[fields.second.value]);
    if (fields.sort.value !== "errors") query.set("sort", fields.sort.value);
    if (fields.text.value) query.set("text", fields.text.value);
    history.replaceState(null, "", query.size ? `#errors?${query}` : location.hash.startsWith("#errors") ? "#errors" : location.hash || location.pathname);
  }

  const standard = () => Math.min(1, systems.length - 1);

  /** Sets a select; its first option where the address names none. */
  function choose(field, value) {
    field.value = value;
    if (field.selectedIndex < 0) field.selectedIndex = 0;
  }

  function recall() {
    if (!location.hash.startsWith("#errors?")) return;
    const query = new URLSearchParams(location.hash.slice("#errors?".length));
    const place = (list, name) => (list.includes(name) ? String(list.indexOf(name)) : "");
    fields.set.value = place(data.sets, query.get("set"));
    choose(fields.kind, query.get("kind"));
    fields.first.value = place(systems, query.get("first"));
    fields.second.value = place(systems, query.get("second")) || String(standard());
    choose(fields.sort, query.get("sort"));
    fields.text.value = query.get("text") || "";
    fields.audio.checked = false; // is not in the address: what a cell counts shall all be here
    if (fields.first.value !== "") { shown.add(Number(fields.first.value)); ticks(); }
    select();
    render();
    $("errors").scrollIntoView();
    $("errors").focus({ preventScroll: true });
  }

  function ticks() { for (const box of $("f-systems").querySelectorAll("input")) box.checked = shown.has(Number(box.value)); }

  // ── beginning ──
  const counts = data.sets.map((_, set) => data.utterances.filter((each) => each[SET] === set).length);
  fields.set.append(make("option", { value: "" }, "all sets"));
  fields.set.firstChild.value = "";
  data.sets.forEach((name, set) => fields.set.append(make("option", { value: String(set) }, `${name} (${counts[set]})`)));
  fields.first.append(make("option", {}, "any system shown"));
  fields.first.firstChild.value = "";
  systems.forEach((name, system) => {
    fields.first.append(make("option", { value: String(system) }, name));
    fields.second.append(make("option", { value: String(system) }, name));
    const box = make("input", { type: "checkbox", value: String(system) });
    box.checked = true;
    box.addEventListener("change", () => { if (box.checked) shown.add(system); else shown.delete(system); update(); });
    $("f-systems").append(make("label", {}, box, name));
  });
  fields.second.value = String(standard());
  for (const field of Object.values(fields)) if (field !== fields.text) field.addEventListener("change", update);
  let waiting = 0;
  fields.text.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 120); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  window.addEventListener("hashchange", recall);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#errors?"]');
    if (link && link.hash === location.hash) recall(); // the same cell once more: no change that the browser would tell of
  });
  let widthBefore = window.innerWidth, resizing = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === widthBefore) return; // a phone's address bar changes the height only
    widthBefore = window.innerWidth;
    clearTimeout(resizing);
    resizing = setTimeout(render, 150);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select, textarea"), item = event.target.matches("#list > li") ? event.target : null;
    const inside = $("list").contains(event.target) && !event.target.matches("audio");
    if (typing) return;
    const moves = { j: 1, k: -1, ...(inside ? { ArrowDown: 1, ArrowUp: -1 } : {}) };
    if (event.key in moves) step(moves[event.key]);
    else if (event.key === "n") turn(1);
    else if (event.key === "p") turn(-1);
    else if (event.key === "/") fields.text.focus();
    else if (item && (event.key === "Enter" || event.key === " ")) toggle(item, found[page * PAGE + current]);
    else return;
    event.preventDefault();
  });
  $("filters").hidden = false;
  select();
  render();
  recall();
})();
