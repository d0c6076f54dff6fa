Scalar.createApiReference("#scalar", {
  url: "openapi.json",
  authentication: { preferredSecurityScheme: "bearer" },
  // Each of these would ask another host.
  withDefaultFonts: false,
  telemetry: false,
  agent: { disabled: true },
  mcp: { disabled: true },
  hideClientButton: true,
  showDeveloperTools: "never",
});
