// Loads a page once the server answers again. Without JavaScript the page loads itself after some seconds.
"use strict";
(() => {
  const then = document.getElementById("main").dataset.then;

  async function look() {
    try {
      await fetch("/health", { cache: "no-store" });
      location.replace(then);
    } catch {
      setTimeout(look, 1000); // it is not back yet
    }
  }

  setTimeout(look, 2500);
})();
