"use strict";
// While the run goes on, what has changed takes the place of what is shown; then the report comes.
const again = async () => {
  try {
    const text = await (await fetch(location.href, { cache: "no-store" })).text();
    const seen = new DOMParser().parseFromString(text, "text/html").querySelector("main");
    if (!seen || !seen.matches(".live")) return location.reload();
    document.querySelector("main").replaceChildren(...seen.childNodes);
  } catch {
    document.querySelector("#said").textContent = "llmaug report --serve has been stopped.";
  }
  setTimeout(again, 2000);
};
setTimeout(again, 2000);
