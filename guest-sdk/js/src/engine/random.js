/**
 * Random numbers that differ from one instance to the next: QuickJS seeds its own while the component
 * is built, so every instance would draw the same. The generator is xoshiro128**.
 *
 * @param {() => number | bigint} entropy 64 random bits
 */
export function randomFrom(entropy) {
  /** @type {Uint32Array | undefined} */
  let state;
  return () => {
    state ??= seeded(entropy);
    return (next(state) * 0x200000 + (next(state) >>> 11)) / 2 ** 53;
  };
}

function seeded(/** @type {() => number | bigint} */ entropy) {
  const words = new Uint32Array(4);
  for (let i = 0; i < 4; i += 2) {
    const bits = BigInt(entropy());
    words[i] = Number(bits & 0xffffffffn);
    words[i + 1] = Number((bits >> 32n) & 0xffffffffn);
  }
  words[0] |= 1; // the generator has one fixed point, all zeros
  return words;
}

function next(/** @type {Uint32Array} */ s) {
  const result = Math.imul(rotated(Math.imul(s[1], 5), 7), 9) >>> 0;
  const t = s[1] << 9;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotated(s[3], 11);
  return result;
}

const rotated = (/** @type {number} */ x, /** @type {number} */ k) => (x << k) | (x >>> (32 - k));
