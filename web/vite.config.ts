import react from '@vitejs/plugin-react'
import { defineConfig } from 'vitest/config'

// `npm run dev` shows the page with the data of a node that runs: SHARDKV=http://127.0.0.1:7402
const node = process.env.SHARDKV ?? 'http://127.0.0.1:7402'
const routes = ['/kv', '/append', '/cluster', '/events', '/readyz', '/status', '/docs', '/openapi.json']

export default defineConfig({
  plugins: [react()],
  build: {
    outDir: '../shardkv/http/static',
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0, // the page's policy lets it load files of its own node only
    chunkSizeWarningLimit: 700, // all of it is at most 400 kB gzipped, which ci.sh checks
  },
  server: { proxy: Object.fromEntries(routes.map((route) => [route, { target: node, changeOrigin: true, headers: { origin: node } }])) },
  test: { include: ['test/**/*.test.ts'] },
})
