import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The server allows scripts, styles and pictures of its own origin alone: nothing is inlined.
export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../src/khala/studio",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8765", "/healthz": "http://127.0.0.1:8765" } },
});
