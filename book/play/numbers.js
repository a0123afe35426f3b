// The numbers of the library, in its own order: the schedule, its jumps, and the noise that a seed stands for.
export const T = 1000, SIZE = 28 * 28, IMAGE = -1;

// abar_t of the linear schedule, as NoiseSchedule.linear(1000) has it.
const ABAR = new Float64Array(T);
for (let t = 0, product = 1; t < T; t++) ABAR[t] = product *= 1 - (1e-4 + ((0.02 - 1e-4) * t) / (T - 1));

export const signalAndNoise = (t) => (t === IMAGE ? [1, 0] : [Math.sqrt(ABAR[t]), Math.sqrt(1 - ABAR[t])]);

// N timesteps with trailing spacing, the noisiest first.
export const spaced = (n) => Array.from({ length: n }, (_, i) => Math.round(T - (i * T) / n) - 1);

// The estimate of x_0 that takes x_t to x_s in one jump.
export function guess(x_t, x_s, t, s) {
  const [signal, noise] = signalAndNoise(t), [signal_s, noise_s] = signalAndNoise(s);
  const kept = noise_s / noise, moved = signal_s - signal * kept;
  return x_s.map((value, i) => Math.min(1, Math.max(-1, (value - kept * x_t[i]) / moved)));
}

// One step of DDIM backwards, from the state at s to the one at t > s, by eps at t.
export function inverted(x_s, eps, s, t) {
  const [signal_s, noise_s] = signalAndNoise(s), [signal, noise] = signalAndNoise(t);
  return x_s.map((value, i) => (signal * (value - noise_s * eps[i])) / signal_s + noise * eps[i]);
}

// The Mersenne Twister (Matsumoto & Nishimura 1998), which torch's generators are on the CPU: 32 bits a call.
function twister(seed) {
  const state = new Uint32Array(624);
  let place = 624;
  state[0] = seed;
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  return () => {
    if (place === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      place = 0;
    }
    let y = state[place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// The noise of sample `index` under a seed, as SampleNoise draws it: [784] normal numbers (Box & Muller, by 16).
export function noiseOf(seed, index = 0) {
  const random = twister((Math.imul(seed, 0x7f4a7c15) + Math.imul(index, 0x1ce4e5b9) + 1) >>> 0);
  const x = Float32Array.from({ length: SIZE }, () => (random() & 0xffffff) / 2 ** 24);
  for (let block = 0; block < SIZE; block += 16)
    for (let i = block; i < block + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - x[i])), angle = 2 * Math.PI * x[i + 8];
      x[i] = radius * Math.cos(angle);
      x[i + 8] = radius * Math.sin(angle);
    }
  return x;
}
