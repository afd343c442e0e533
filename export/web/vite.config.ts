import { defaultClientConditions, defineConfig } from "vite";

// Isolated from other origins, a page may have threads.
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

export default defineConfig({
  base: "./", // the files may lie in any folder of a server
  appType: "mpa", // a missing file is missing, not the page once more
  build: { target: "es2022", modulePreload: { polyfill: false } },
  // Without a copy of what starts WebAssembly in the bundle: workers start from its own file.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", ...defaultClientConditions] },
  server: { headers },
  preview: { headers },
});
