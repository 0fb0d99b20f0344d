"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const ledger = $("#ledger-table");
  const claims = $$("tbody", ledger);
  const said = (claim) =>
    [...$$(".head, .text", claim).map((part) => part.textContent), claim.dataset.words].join(" ");
  const words = new Map(claims.map((claim) => [claim, said(claim).toLowerCase()]));

  // ---- opening and closing
  const toggleOf = (claim) => $(".toggle", claim);
  const setOpen = (claim, open) => {
    toggleOf(claim).setAttribute("aria-expanded", String(open));
    $(".detail", claim).hidden = !open;
  };
  const isOpen = (claim) => toggleOf(claim).getAttribute("aria-expanded") === "true";
  for (const claim of claims) {
    setOpen(claim, false);
    $(".head", claim).addEventListener("click", (event) => {
      if (event.target.closest("a") || String(getSelection())) return;
      setOpen(claim, !isOpen(claim));
    });
  }
  $("#open-all").addEventListener("click", () => shown().forEach((claim) => setOpen(claim, true)));
  $("#close-all").addEventListener("click", () => claims.forEach((claim) => setOpen(claim, false)));

  // ---- filters
  const search = $("#search");
  const chips = $$(".chip");
  const pressed = (facet) =>
    chips
      .filter((chip) => chip.dataset.facet === facet && chip.getAttribute("aria-pressed") === "true")
      .map((chip) => chip.dataset.value);
  const shown = () => claims.filter((claim) => !claim.hidden);
  const filter = () => {
    const [outcomes, areas] = [pressed("outcome"), pressed("area")];
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const claim of claims) {
      const { outcome, area } = claim.dataset;
      claim.hidden = !(
        (!outcomes.length || outcomes.includes(outcome)) &&
        (!areas.length || areas.includes(area)) &&
        terms.every((term) => words.get(claim).includes(term))
      );
    }
    const count = shown().length;
    $("#count").textContent = `${count} of ${claims.length} claims`;
    $("#none").hidden = count > 0;
    const filtered = outcomes.length || areas.length || terms.length;
    $("#clear").disabled = !filtered;
  };
  const clear = () => {
    search.value = "";
    chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    filter();
  };
  search.addEventListener("input", filter);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
  $("#clear").addEventListener("click", clear);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    }
  });

  // ---- sorting
  const sorters = $$("th[aria-sort]", ledger);
  const select = $("#sort");
  const key = (claim, name) => {
    const value = claim.dataset[name];
    return value !== "" && isFinite(value) ? Number(value) : value;
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
  const sort = (name, direction) => {
    const sign = direction === "descending" ? -1 : 1;
    claims.sort(
      (a, b) =>
        sign * compare(key(a, name), key(b, name)) || compare(key(a, "order"), key(b, "order")),
    );
    ledger.append(...claims);
    for (const th of sorters) {
      th.setAttribute("aria-sort", th.dataset.key === name ? direction : "none");
    }
    select.value = name;
  };
  for (const th of sorters) {
    $("button", th).addEventListener("click", () => {
      const first = th.dataset.first;
      const other = first === "ascending" ? "descending" : "ascending";
      sort(th.dataset.key, th.getAttribute("aria-sort") === first ? other : first);
    });
  }
  select.addEventListener("change", () => {
    const th = sorters.find((each) => each.dataset.key === select.value);
    sort(select.value, th.dataset.first);
  });

  // ---- links to claims: report.html#T18
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || !claims.includes(target)) return;
    if (target.hidden) clear();
    setOpen(target, true);
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);

  // ---- copies: of commands and programs, and of a link to a claim, which is followed as well
  const copy = async (text, button) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      return; // refused by the browser: what is shown can be selected
    }
    $("#told").textContent = `Copied: ${text}`;
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  };
  for (const code of $$(".command code:not(.sum), pre code")) {
    const copier = document.createElement("button");
    copier.type = "button";
    copier.className = "copy";
    copier.textContent = "Copy";
    copier.addEventListener("click", () => copy(code.textContent, copier));
    (code.closest("pre") ?? code).after(copier);
  }
  for (const link of $$(".permalink")) {
    link.addEventListener("click", () => {
      copy(new URL(link.getAttribute("href"), location.href).href, link);
    });
  }

  // ---- theme
  const themes = ["auto", "light", "dark"];
  const button = $("#theme");
  const wear = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  const remember = (theme) => {
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // a page from a file may be refused to store anything
    }
  };
  const remembered = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  wear(themes.includes(remembered()) ? remembered() : "auto");
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % 3];
    wear(next);
    remember(next);
  });

  for (const control of $$(".needs-script")) control.hidden = false;
  filter();
  follow();
})();
