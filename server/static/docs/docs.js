// Starts the viewer. In a file of its own because the page's policy allows no inline script.
"use strict";

window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: "/api/v1/openapi.json",
    dom_id: "#docs",
    deepLinking: true,
    persistAuthorization: false, // a token must not outlive the page
    displayRequestDuration: true,
    validatorUrl: null, // nothing leaves this host
    tryItOutEnabled: true,
  });
});
