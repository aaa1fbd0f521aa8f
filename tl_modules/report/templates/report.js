"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const input = byId("search"), found = byId("found"), hits = byId("hits");
  const modules = [...document.querySelectorAll("details.module")];
  const texts = modules.map((module) => module.textContent.toLowerCase());

  // Prompts are rows of [module, category, score, text], only ever inserted as text, never as HTML.
  const prompts = JSON.parse(byId("prompt-data").textContent);
  const list = byId("prompt-list"), which = byId("which"), more = byId("more");
  const STEP = 50;
  let matches = [], shown = 0;

  // bdi keeps right-to-left text from reordering the text around it.
  function apart(text) {
    const element = document.createElement("bdi");
    element.textContent = text;
    return element;
  }

  function show() {
    matches.slice(shown, shown + STEP).forEach(([module, category, score, text], at) => {
      const item = document.createElement("li"), link = document.createElement("a");
      item.id = `prompt-${shown + at}`;
      link.href = `#module-${module}`;
      link.textContent = `Module ${module}`;
      const note = document.createElement("span");
      note.className = "quiet";
      note.append(" ", apart(category), ` ${score === null ? "–" : score.toFixed(2)}\n`);
      item.append(link, note, apart(text));
      list.append(item);
    });
    shown = Math.min(shown + STEP, matches.length);
    more.hidden = shown >= matches.length;
  }

  const wanted = () => input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const few = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  function hit(href, where, text) {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = href;
    link.append(where, " ", apart(text));
    item.append(link);
    hits.append(item);
  }

  // The words of a text around the first one that was searched.
  function around(text, word) {
    const at = Math.max(text.toLowerCase().indexOf(word), 0);
    const start = Math.max(at - 30, 0);
    return (start ? "… " : "") + text.slice(start, at + 100).replace(/\s+/g, " ");
  }

  const N_HITS = 20;
  let waiting;
  function search() {
    clearTimeout(waiting);
    const words = wanted();
    const matching = (text) => words.every((word) => text.includes(word));
    const kept = modules.filter((_, at) => matching(texts[at]));
    matches = prompts.filter(([module, category, , text]) =>
      (which.value === "" || which.value === String(module)) &&
      matching(`${category} ${text}`.toLowerCase()));
    list.replaceChildren();
    shown = 0;
    show();
    found.textContent = `${few(kept.length, "module")}, ${few(matches.length, "prompt")}`;
    hits.replaceChildren();
    hits.hidden = !words.length || !(kept.length + matches.length);
    if (hits.hidden) return;
    for (const module of kept.slice(0, N_HITS)) {
      hit(`#${module.id}`, "Module", module.querySelector(".title").textContent);
    }
    matches.slice(0, N_HITS).forEach(([, , , text], at) => {
      hit(`#prompt-${at}`, "Prompt:", around(text, words[0]));
    });
    hits.scrollTop = 0;
  }

  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 100);
  });
  which.addEventListener("change", search);
  more.addEventListener("click", () => {
    const first = shown;
    show();
    list.children[first]?.querySelector("a").focus();
  });
  const atHit = (step) => {
    const links = [...hits.querySelectorAll("a")];
    const next = links.indexOf(document.activeElement) + step;
    (next < 0 ? input : links[Math.min(next, links.length - 1)])?.focus();
  };
  document.addEventListener("keydown", (event) => {
    const focused = document.activeElement;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(focused.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      input.focus();
    } else if (event.key === "Escape" && (focused === input || hits.contains(focused))) {
      input.value = "";
      search();
      input.focus();
    } else if (/^Arrow(Down|Up)$/.test(event.key) && (focused === input || hits.contains(focused))) {
      event.preventDefault();
      atHit(event.key === "ArrowDown" ? 1 : -1);
    }
  });
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    search(); // what was typed last may wait
    hits.querySelector("a")?.click();
  });
  for (const button of document.querySelectorAll("button[data-prompts-of]")) {
    button.addEventListener("click", () => {
      which.value = button.dataset.promptsOf;
      input.value = "";
      search();
      byId("prompts").scrollIntoView();
      which.focus({ preventScroll: true });
    });
  }

  // A module's page opens where a link leads to it, at the first part that has a searched word.
  function lead(hash) {
    const target = byId(hash.slice(1));
    if (!target) return;
    document.querySelector(".hit")?.classList.remove("hit");
    if (target.matches("details")) target.open = true;
    const [word] = wanted();
    const part = word && target.matches("details") &&
      [...target.querySelectorAll("summary, p, li, dd, td, th")].find(
        (one) => one.textContent.toLowerCase().includes(word));
    const place = part || target;
    if (word) place.classList.add("hit");
    place.scrollIntoView({ block: part && part.tagName !== "SUMMARY" ? "center" : "start" });
    const focusable = target.querySelector("summary, a");
    focusable?.focus({ preventScroll: true });
  }
  document.addEventListener("click", (event) => {
    const hash = event.target.closest("a")?.getAttribute("href");
    if (!/^#(module|prompt)-\d+$/.test(hash ?? "")) return;
    event.preventDefault();
    history.pushState(null, "", hash);
    hits.hidden = true;
    lead(hash);
  });
  input.addEventListener("focus", () => { hits.hidden = !wanted().length || !hits.children.length; });
  addEventListener("hashchange", () => lead(location.hash));
  const openAll = byId("open-all");
  openAll.addEventListener("click", () => {
    const opened = modules.some((module) => !module.open);
    for (const module of modules) module.open = opened;
    openAll.textContent = opened ? "Close all" : "Open all";
  });
  addEventListener("beforeprint", () => { for (const module of modules) module.open = true; });

  // The bar stays on top, so a jump should stop below it.
  const bar = byId("search-form");
  new ResizeObserver(() => {
    document.documentElement.style.scrollPaddingTop = `${bar.offsetHeight + 16}px`;
  }).observe(bar);
  search();
  if (location.hash.startsWith("#module-")) lead(location.hash);

  // A figure is drawn when it is scrolled near; plotly is unpacked once, for the first figure.
  const drawings = [...document.querySelectorAll("[data-figure]")];
  let plotly;
  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  async function loaded() {
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly-source");
    document.head.append(script);
    return window.Plotly;
  }
  // An axis' title in lines that fit a narrow page.
  const narrow = (title) =>
    title?.split("<br>").map((line) => line.replace(/(.{28,}?)\s/g, "$1<br>")).join("<br>");
  const ink = () => getComputedStyle(document.body).color;
  async function draw(drawing) {
    plotly ??= loaded();
    const { data, layout } = JSON.parse(byId(drawing.dataset.figure).textContent);
    delete layout.width;
    layout.font = { ...layout.font, color: ink() };
    layout.title.text = "";
    const lead = Boolean(drawing.closest(".lead")); // its legend and its axis are above its rows
    layout.margin = lead ? { t: 20, b: 10, r: 10 } : { t: 20 };
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger should scroll the page
    if (innerWidth < 700) {
      const names = layout.yaxis.ticktext ?? layout.yaxis.categoryarray;
      layout.yaxis.tickvals ??= names;
      layout.yaxis.ticktext = names?.map((name) => name.split(":")[0]);
      layout.xaxis.title.text = narrow(layout.xaxis.title.text);
      if (lead) layout.height += 90; // of the longer legend and title
      else layout.legend = { ...layout.legend, orientation: "h", y: 1.02, yanchor: "bottom", x: 0 };
    }
    await (await plotly).newPlot(drawing, data, layout, { responsive: true, displaylogo: false });
    drawing.dataset.drawn = "";
  }
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "600px" });
  drawings.forEach((drawing) => near.observe(drawing));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => {
    for (const drawing of drawings) {
      if ("drawn" in drawing.dataset) (await plotly).relayout(drawing, { "font.color": ink() });
    }
  });
})();
