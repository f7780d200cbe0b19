// Key to shard, as shardkv/routing.py does it: slots as in Redis Cluster, in contiguous ranges.

const SLOTS = 16384

/** The bytes between the first `{` and the next `}`; all if there are none. */
export function hashTag(key: Uint8Array): Uint8Array {
  const start = key.indexOf(0x7b)
  if (start < 0) return key
  const end = key.indexOf(0x7d, start + 1)
  return end <= start + 1 ? key : key.subarray(start + 1, end)
}

function crc16(bytes: Uint8Array): number {
  let crc = 0
  for (const byte of bytes) {
    crc ^= byte << 8
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff
  }
  return crc
}

export function shardOf(key: Uint8Array, shards: number): number {
  return Math.floor(((crc16(hashTag(key)) % SLOTS) * shards) / SLOTS)
}
