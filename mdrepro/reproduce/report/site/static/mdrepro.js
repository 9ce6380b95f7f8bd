"use strict";

// Figures open enlarged over the page; without this script the link opens the figure itself.
for (const link of document.querySelectorAll("a.md-zoom")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const dialog = document.createElement("dialog");
    dialog.className = "md-dialog";
    const image = document.createElement("img");
    image.src = link.href;
    image.alt = link.querySelector("img").alt;
    dialog.append(image);
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  });
}

// The ledger's filter: every word must occur in a row or claim; sections without a match disappear.
for (const input of document.querySelectorAll("input.md-filter")) {
  const items = [...document.querySelectorAll("[data-filter]")].map((item) => [item, item.textContent.toLowerCase()]);
  const sections = [...document.querySelectorAll("section")].filter(
    (part) => part.querySelector("[data-filter]") && !part.querySelector("section"),
  );
  const count = document.querySelector(".md-filter-count");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let matches = 0;
    for (const [item, text] of items) {
      item.hidden = !words.every((word) => text.includes(word));
      matches += item.hidden ? 0 : 1;
    }
    for (const part of sections) part.hidden = !part.querySelector("[data-filter]:not([hidden])");
    for (const table of document.querySelectorAll(".md-ledger")) {
      table.parentElement.hidden = !table.querySelector("[data-filter]:not([hidden])");
    }
    count.textContent = words.length ? `${matches} of ${items.length}` : "";
  });
}
