"use strict";
// Draws the page's plots, and loads the page again when the store has changed.
for (const json of document.querySelectorAll("script[data-into]")) {
  Bokeh.embed.embed_item(JSON.parse(json.textContent), json.dataset.into);
}
const line = document.getElementById("status");
const again = () => {
  sessionStorage.setItem("said", `The store has changed; updated at ${new Date().toLocaleTimeString()}.`);
  sessionStorage.setItem("focus", document.activeElement?.id || document.activeElement?.getAttribute("href") || "");
  location.reload(); // the browser keeps where the page was scrolled to
};
const said = sessionStorage.getItem("said");
if (said !== null) {
  const was = sessionStorage.getItem("focus");
  sessionStorage.removeItem("said");
  line.textContent = said;
  if (was) (document.getElementById(was) ?? document.querySelector(`a[href="${CSS.escape(was)}"]`))?.focus({preventScroll: true});
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const view of Bokeh.index) view.request_paint(); // with the style sheet's other colours
});
const shown = document.body.dataset.state;
const look = async () => {
  try {
    const answer = await fetch("state", {cache: "no-store", signal: AbortSignal.timeout(20000)});
    if (!answer.ok) throw new Error(answer.statusText);
    const state = await answer.text();
    if (line.dataset.lost) {
      line.textContent = "";
      delete line.dataset.lost;
    }
    if (state !== shown && document.activeElement?.tagName !== "INPUT") {
      return again();
    }
  } catch {
    line.dataset.lost = "yes";
    line.textContent = "The server does not answer; what is shown may be out of date.";
  }
  setTimeout(look, 2000);
};
if (shown) setTimeout(look, 2000);
