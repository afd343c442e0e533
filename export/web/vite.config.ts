import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // the files may lie in any folder of a server
  appType: "mpa", // a missing file is missing, not the page once more
  build: { target: "es2022", modulePreload: { polyfill: false } },
});
