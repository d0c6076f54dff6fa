// The search would run in a worker made from a text, which the page's policy does not allow.
Redoc.init("openapi.json", { disableSearch: true, hideDownloadButtons: false }, document.getElementById("redoc"));
