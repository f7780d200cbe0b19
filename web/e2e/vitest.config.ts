import { defineConfig } from 'vitest/config'

// One file, in order: its tests share a cluster, and hurt it more and more.
export default defineConfig({
  cacheDir: '../node_modules/.vite',
  test: {
    root: import.meta.dirname,
    include: ['*.e2e.ts'],
    testTimeout: 90_000,
    hookTimeout: 90_000,
    sequence: { concurrent: false },
    fileParallelism: false,
    bail: 1,
  },
})
