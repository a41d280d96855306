"use strict";
// The error browser: filters and sorts the utterances of the block "data" and shows a page of them. Only the current page is in
// the document, so that 10,000 utterances stay fast. Texts of the data are set as textContent, never as markup.
(() => {
  const PAGE = 20; // utterances on a page
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  if (!data.utterances.length) return;
  // Indices in the list of an utterance and in that of a system's result (browser_data in components/report/browser.py).
  const [SET, ID, SPEAKER, LANGUAGE, SECONDS, REFERENCE, REFERENCE_IN_FORM, CLIP, RESULTS] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const [TEXT, TEXT_IN_FORM, OPERATIONS, SUBSTITUTIONS, DELETIONS, INSERTIONS, KIND, ALTERNATIVES] = [0, 1, 2, 3, 4, 5, 6, 7];
  const fields = { set: $("f-set"), kind: $("f-kind"), first: $("f-first"), second: $("f-second"), sort: $("f-sort"), text: $("f-text"), audio: $("f-audio") };
  const systems = data.systems;
  const visible = new Set(systems.keys());
  let matches = [], page = 0, current = 0, playing = null;

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) if (value !== "" && value !== false) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const errors = (result) => (result ? result[SUBSTITUTIONS] + result[DELETIONS] + result[INSERTIONS] : 0);
  const words = (text) => text.split(" ").filter(Boolean);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  // ── selection and order of utterances ──
  const searchTexts = new Map();
  function searchText(utterance) {
    if (!searchTexts.has(utterance)) {
      const texts = utterance[RESULTS].map((result) => (result ? result[TEXT] : ""));
      searchTexts.set(utterance, [utterance[ID], utterance[SPEAKER], utterance[REFERENCE], ...texts].join("\n").toLowerCase());
    }
    return searchTexts.get(utterance);
  }

  const KINDS = {
    "": () => true,
    any: (result) => errors(result) > 0,
    substitution: (result) => result[SUBSTITUTIONS] > 0,
    deletion: (result) => result[DELETIONS] > 0,
    insertion: (result) => result[INSERTIONS] > 0,
    text: (result, utterance) => !data.speech[utterance[SET]] && result[TEXT].trim() !== "",
  };

  function select() {
    const kind = fields.kind.value, set = fields.set.value, text = fields.text.value.trim().toLowerCase();
    const hasKind = KINDS[kind] || ((result) => result[KIND] === kind);
    const by = fields.first.value === "" ? [...visible] : [Number(fields.first.value)];
    matches = data.utterances.filter((utterance) =>
      (set === "" || utterance[SET] === Number(set)) &&
      (!fields.audio.checked || utterance[CLIP] >= 0) &&
      by.some((system) => utterance[RESULTS][system] && hasKind(utterance[RESULTS][system], utterance)) &&
      (text === "" || searchText(utterance).includes(text)));
    sort(by);
    page = current = 0;
  }

  function sort(by) {
    const second = Number(fields.second.value);
    const numErrors = (utterance) => by.reduce((sum, system) => sum + errors(utterance[RESULTS][system]), 0);
    const mean = (utterance) => numErrors(utterance) / by.filter((system) => utterance[RESULTS][system]).length; // a system without a result does not count
    const difference = (utterance, sign) => (utterance[RESULTS][second] ? sign * (mean(utterance) - errors(utterance[RESULTS][second])) : Infinity); // sorted last
    const value = {
      errors: (utterance) => -numErrors(utterance), worse: (utterance) => difference(utterance, -1), better: (utterance) => difference(utterance, 1), seconds: (utterance) => -utterance[SECONDS], id: () => 0,
    }[fields.sort.value];
    const keyed = matches.map((utterance, index) => [value(utterance), index, utterance]); // ties: most errors first
    if (fields.sort.value === "id") keyed.sort((a, b) => (a[2][ID] < b[2][ID] ? -1 : a[2][ID] > b[2][ID] ? 1 : a[1] - b[1]));
    else keyed.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    matches = keyed.map((entry) => entry[2]);
  }

  // ── one utterance ──
  /** Columns of aligned words: those of the reference, and around each of them as many as any system inserted there. */
  function columns(utterance, systemIds) {
    const reference = words(utterance[REFERENCE_IN_FORM] === 0 ? utterance[REFERENCE] : utterance[REFERENCE_IN_FORM]);
    const gaps = Array.from({ length: reference.length + 1 }, () => 0);
    const rows = systemIds.map((system) => {
      const result = utterance[RESULTS][system], row = { at: [], before: gaps.map(() => []) };
      const hypothesis = words(result[TEXT_IN_FORM] === 0 ? result[TEXT] : result[TEXT_IN_FORM]);
      let column = 0, word = 0;
      for (const letter of result[OPERATIONS]) {
        if (letter === "I") row.before[column].push(hypothesis[word++]);
        else row.at[column++] = letter === "D" ? ["D", "–"] : [letter, hypothesis[word++]];
      }
      row.before.forEach((inserted, gap) => { gaps[gap] = Math.max(gaps[gap], inserted.length); });
      return row;
    });
    const aligned = [];
    gaps.forEach((most, gap) => {
      for (let number = 0; number < most; number++) {
        aligned.push(["", ...rows.map((row) => (number < row.before[gap].length ? ["I", row.before[gap][number]] : ["", ""]))]);
      }
      if (gap < reference.length) aligned.push([reference[gap], ...rows.map((row) => row.at[gap])]);
    });
    return aligned;
  }

  const NAMES = { S: "substituted", D: "deleted", I: "inserted" };
  /** Tables of aligned words, each with as many columns as fit the width, so that nobody has to scroll sideways. */
  function alignment(utterance, systemIds, width) {
    const longest = Math.min(18, Math.max(9, ...systemIds.map((system) => systems[system].length)));
    const columnWidth = (column) => 1.7 + Math.max(column[0].length, ...column.slice(1).map(([letter, word]) => word.length + (NAMES[letter] ? 1.2 : 0)));
    const lines = [[]];
    let used = longest + 2;
    for (const column of columns(utterance, systemIds)) {
      if (used + columnWidth(column) > width && lines[lines.length - 1].length) { lines.push([]); used = longest + 2; }
      lines[lines.length - 1].push(column);
      used += columnWidth(column);
    }
    return lines.filter((line) => line.length).map((line, number) => {
      const body = element("tbody");
      const language = { lang: utterance[LANGUAGE] };
      body.append(element("tr", { class: "ref" }, element("th", { scope: "row" }, "reference"), ...line.map((column) => element("td", language, column[0]))));
      systemIds.forEach((system, row) => {
        body.append(element("tr", {}, element("th", { scope: "row", title: systems[system] }, systems[system]), ...line.map((column) => {
          const [letter, word] = column[row + 1];
          if (!NAMES[letter]) return element("td", language, word);
          return element("td", language, element("span", { class: letter, title: NAMES[letter] }, word, element("sup", {}, letter)));
        })));
      });
      return element("div", { class: "box aligned" }, element("table", { "aria-label": `Words aligned, part ${number + 1}` }, body));
    });
  }

  /** The texts as written; filled when they are opened for the first time. */
  function textDetails(utterance, systemIds) {
    const most = Math.max(0, ...systemIds.map((system) => utterance[RESULTS][system][ALTERNATIVES].length));
    const box = element("details", { class: "raw" }, element("summary", {}, most ? "Texts as written, n-best" : "Texts as written"));
    box.addEventListener("toggle", () => box.append(textList(utterance, systemIds)), { once: true });
    return box;
  }

  function textList(utterance, systemIds) {
    const text = (content) => (content.trim() ? element("span", { lang: utterance[LANGUAGE], dir: "auto" }, content) : element("span", { class: "none" }, "no text"));
    const rows = element("dl", {}, element("dt", {}, "reference"), element("dd", {}, text(utterance[REFERENCE])));
    for (const system of systemIds) {
      const result = utterance[RESULTS][system], cell = element("dd", {}, text(result[TEXT]));
      if (result[ALTERNATIVES].length) {
        cell.append(element("ol", { start: 2, "aria-label": `n-best of ${systems[system]}` }, ...result[ALTERNATIVES].map(([other, score]) =>
          element("li", {}, text(other), score === null ? "" : element("small", {}, ` ${score.toFixed(2)}`)))));
      }
      rows.append(element("dt", {}, systems[system]), cell);
    }
    return rows;
  }

  function describeErrors(utterance, systemIds) {
    return systemIds.map((system) => {
      const result = utterance[RESULTS][system];
      const parts = [["S", SUBSTITUTIONS], ["D", DELETIONS], ["I", INSERTIONS]].filter(([, count]) => result[count]).map(([letter, count]) => result[count] + letter);
      return `${systems[system]} ${parts.join(" ") || "0"}${result[KIND] ? ` (${result[KIND] === "text" ? "text on non-speech" : result[KIND]})` : ""}`;
    }).join(" · ");
  }

  function listItem(utterance, number, width) {
    const systemIds = [...visible].sort((a, b) => a - b).filter((system) => utterance[RESULTS][system]);
    const about = [data.sets[utterance[SET]], utterance[SPEAKER] && `speaker ${utterance[SPEAKER]}`, utterance[LANGUAGE], `${utterance[SECONDS].toFixed(1)} s`].filter(Boolean);
    const head = element("div", { class: "head" }, element("h3", {}, utterance[ID]), element("span", { class: "facts" }, about.join(" · ")));
    if (utterance[CLIP] >= 0) {
      const button = element("button", { type: "button", "aria-label": `Play ${utterance[ID]}` }, "▶ Play");
      button.addEventListener("click", () => togglePlayback(item, utterance));
      head.append(button);
    } else head.append(element("span", { class: "facts none" }, "audio is not in this page"));
    const item = element("li", { tabindex: number === current ? "0" : "-1" }, head, element("div", { class: "facts head" }, element("span", { class: "facts" }, describeErrors(utterance, systemIds))),
      ...alignment(utterance, systemIds, width), textDetails(utterance, systemIds));
    item.addEventListener("focusin", () => setCurrent(number));
    return item;
  }

  // ── audio ──
  function togglePlayback(item, utterance) {
    if (utterance[CLIP] < 0) { setStatus(`No audio of ${utterance[ID]} in this page.`); return; }
    let audio = item.querySelector("audio");
    if (!audio) {
      const bytes = Uint8Array.from(atob(JSON.parse($(`clip-${utterance[CLIP]}`).textContent)), (letter) => letter.charCodeAt(0));
      audio = element("audio", { controls: "", preload: "auto", "aria-label": `Audio of ${utterance[ID]}` });
      audio.controls = true;
      audio.src = URL.createObjectURL(new Blob([bytes], { type: "audio/flac" }));
      const button = item.querySelector("button");
      audio.addEventListener("play", () => { if (playing && playing !== audio) playing.pause(); playing = audio; button.textContent = "❚❚ Pause"; });
      audio.addEventListener("pause", () => { button.textContent = "▶ Play"; });
      audio.addEventListener("error", () => setStatus(`The audio of ${utterance[ID]} can't be played by this browser.`));
      item.querySelector(".head").after(audio);
    }
    if (audio.paused) audio.play().catch(() => {}); else audio.pause();
  }

  function stopPlayback() {
    for (const audio of $("list").querySelectorAll("audio")) { audio.pause(); URL.revokeObjectURL(audio.src); }
    playing = null;
  }

  // ── current page ──
  function lineWidth() {
    const probe = element("span", { class: "aligned" }, element("table", {}, element("tbody", {}, element("tr", {}, element("td", {}, "0".repeat(50))))));
    $("list").append(probe);
    const letter = probe.querySelector("td").getBoundingClientRect().width / 51;
    probe.remove();
    return $("list").clientWidth / letter - 3;
  }

  function setStatus(text) { $("status").textContent = text; }

  function render() {
    stopPlayback();
    const pages = Math.max(1, Math.ceil(matches.length / PAGE)), first = page * PAGE, width = lineWidth();
    $("list").replaceChildren(...matches.slice(first, first + PAGE).map((utterance, number) => listItem(utterance, number, width)));
    enableScrolling();
    const last = Math.min(matches.length, first + PAGE);
    const all = matches.length === data.utterances.length ? "" : ` (of ${data.utterances.length})`;
    setStatus(matches.length ? `${first + 1} to ${last} of ${plural(matches.length, "utterance")}${all}.` : "No utterance fits these filters.");
    $("page-number").textContent = `page ${page + 1} of ${pages}`;
    $("previous").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
    $("pager").hidden = pages < 2;
  }

  /** Makes tables that are wider than the page scrollable by keyboard: a single word may be too wide. */
  function enableScrolling() {
    for (const box of $("list").querySelectorAll(".aligned")) {
      if (box.scrollWidth <= box.clientWidth) continue;
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", box.firstChild.getAttribute("aria-label"));
    }
  }

  function setCurrent(number) {
    const items = $("list").children;
    if (items[current]) items[current].tabIndex = -1;
    current = number;
    items[current].tabIndex = 0;
  }

  function turnPage(by, at) {
    const to = page + by;
    if (to < 0 || to * PAGE >= matches.length) return false;
    page = to;
    current = 0;
    render();
    focusItem(at === "last" ? $("list").children.length - 1 : 0);
    return true;
  }

  function focusItem(number) {
    const item = $("list").children[number];
    if (!item) return;
    setCurrent(number);
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }

  function moveFocus(by) {
    const isInside = $("list").contains(document.activeElement);
    const to = isInside ? current + by : current;
    if (to < 0) turnPage(-1, "last");
    else if (to >= $("list").children.length) turnPage(1);
    else focusItem(to);
  }

  function update() { select(); render(); writeAddress(); }

  // ── filters in the address, so that a view has a link ──
  function writeAddress() {
    const query = new URLSearchParams();
    if (fields.set.value !== "") query.set("set", data.sets[fields.set.value]);
    if (fields.kind.value) query.set("kind", fields.kind.value);
    if (fields.first.value !== "") query.set("first", systems[fields.first.value]);
    if (Number(fields.second.value) !== defaultSecond()) query.set("second", systems[fields.second.value]);
    if (fields.sort.value !== "errors") query.set("sort", fields.sort.value);
    if (fields.text.value) query.set("text", fields.text.value);
    history.replaceState(null, "", query.size ? `#errors?${query}` : location.hash.startsWith("#errors") ? "#errors" : location.hash || location.pathname);
  }

  const defaultSecond = () => Math.min(1, systems.length - 1);

  /** Sets a select; to its first option if it has no option of that value. */
  function setOption(field, value) {
    field.value = value;
    if (field.selectedIndex < 0) field.selectedIndex = 0;
  }

  function readAddress() {
    if (!location.hash.startsWith("#errors?")) return;
    const query = new URLSearchParams(location.hash.slice("#errors?".length));
    const optionOf = (names, name) => (names.includes(name) ? String(names.indexOf(name)) : "");
    fields.set.value = optionOf(data.sets, query.get("set"));
    setOption(fields.kind, query.get("kind"));
    fields.first.value = optionOf(systems, query.get("first"));
    fields.second.value = optionOf(systems, query.get("second")) || String(defaultSecond());
    setOption(fields.sort, query.get("sort"));
    fields.text.value = query.get("text") || "";
    fields.audio.checked = false; // not in the address: the list has all utterances that a cell counts
    if (fields.first.value !== "") { visible.add(Number(fields.first.value)); updateSystems(); }
    select();
    render();
    $("errors").scrollIntoView();
    $("errors").focus({ preventScroll: true });
  }

  function updateSystems() { for (const box of $("f-systems").querySelectorAll("input")) box.checked = visible.has(Number(box.value)); }

  // ── start ──
  const counts = data.sets.map((_, set) => data.utterances.filter((utterance) => utterance[SET] === set).length);
  fields.set.append(element("option", { value: "" }, "all sets"));
  fields.set.firstChild.value = "";
  data.sets.forEach((name, set) => fields.set.append(element("option", { value: String(set) }, `${name} (${counts[set]})`)));
  fields.first.append(element("option", {}, "any system shown"));
  fields.first.firstChild.value = "";
  systems.forEach((name, system) => {
    fields.first.append(element("option", { value: String(system) }, name));
    fields.second.append(element("option", { value: String(system) }, name));
    const box = element("input", { type: "checkbox", value: String(system) });
    box.checked = true;
    box.addEventListener("change", () => { if (box.checked) visible.add(system); else visible.delete(system); update(); });
    $("f-systems").append(element("label", {}, box, name));
  });
  fields.second.value = String(defaultSecond());
  for (const field of Object.values(fields)) if (field !== fields.text) field.addEventListener("change", update);
  let searchTimer = 0;
  fields.text.addEventListener("input", () => { clearTimeout(searchTimer); searchTimer = setTimeout(update, 120); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("previous").addEventListener("click", () => turnPage(-1));
  $("next").addEventListener("click", () => turnPage(1));
  window.addEventListener("hashchange", readAddress);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#errors?"]');
    if (link && link.hash === location.hash) readAddress(); // the same cell again: the browser fires no hashchange
  });
  let lastWidth = window.innerWidth, resizeTimer = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === lastWidth) return; // a phone's address bar changes only the height
    lastWidth = window.innerWidth;
    clearTimeout(resizeTimer);
    resizeTimer = setTimeout(render, 150);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.matches("input, select, textarea"), item = event.target.matches("#list > li") ? event.target : null;
    const isInside = $("list").contains(event.target) && !event.target.matches("audio");
    if (isTyping) return;
    const moves = { j: 1, k: -1, ...(isInside ? { ArrowDown: 1, ArrowUp: -1 } : {}) };
    if (event.key in moves) moveFocus(moves[event.key]);
    else if (event.key === "n") turnPage(1);
    else if (event.key === "p") turnPage(-1);
    else if (event.key === "/") fields.text.focus();
    else if (item && (event.key === "Enter" || event.key === " ")) togglePlayback(item, matches[page * PAGE + current]);
    else return;
    event.preventDefault();
  });
  $("filters").hidden = false;
  select();
  render();
  readAddress();
})();
