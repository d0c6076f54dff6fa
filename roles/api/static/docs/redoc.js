// ReDoc's own logo would come from another host: the page's policy does not let it, and ReDoc leaves it out.
// The search would run in a worker made from a text, which the page's policy does not allow.
Redoc.init("openapi.json", { disableSearch: true, hideDownloadButtons: false }, document.getElementById("redoc"));
