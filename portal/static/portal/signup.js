// Create works only when the privacy box is ticked; then the portal statement is shown, and Accept sends the form.
// The server refuses without both all the same. Without this script, a box on the page takes the dialog's place.
"use strict";
(() => {
  const form = document.getElementById("signup");
  const dialog = document.getElementById("statement");
  const box = document.getElementById("id_privacy");
  const create = document.getElementById("create");
  const accepted = document.getElementById("id_portal_statement");
  if (!form || !dialog || !box || !create || !accepted || typeof dialog.showModal !== "function") return;
  const follow = () => { create.disabled = !box.checked; };
  box.addEventListener("change", follow);
  window.addEventListener("pageshow", follow);
  follow();
  accepted.value = "";
  form.addEventListener("submit", (event) => {
    if (accepted.value) return;
    event.preventDefault();
    dialog.showModal();
  });
  document.getElementById("statement-accept").addEventListener("click", () => {
    accepted.value = dialog.dataset.version;
    dialog.close();
    form.requestSubmit(create);
  });
  document.getElementById("statement-decline").addEventListener("click", () => {
    accepted.value = "";
    dialog.close();
    create.focus();
  });
})();
