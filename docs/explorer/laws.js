/* The exact laws of the means on the central path, for the explorer page. Plain functions over arrays of rows, no dependencies.
 *
 * S = Sigma_W^{-1/2} (M - mu_G 1^T) diag(sqrt(pi)) is (K x C), G = S^T S has the eigenvalues u_j (equal classes: omega_j^2 / C),
 * rho = 1 + lambda, K = (rho I + G)^{-1}, J = I - q q^T, q = sqrt(pi). Derivations: docs/mathematics.md and its part two.
 * Loads as a classic script (global `laws`), so that the page runs from a file, and as a CommonJS module.
 */
"use strict";
(function (root) {
  const zeros = (m, n) => Array.from({ length: m }, () => new Float64Array(n));
  const diagonal = (d) => d.map((x, i) => Float64Array.from(d, (_, j) => (i === j ? x : 0)));
  const transpose = (A) => Array.from(A[0], (_, j) => Float64Array.from(A, (row) => row[j]));
  const matmul = (A, B) => {
    const out = zeros(A.length, B[0].length);
    for (let i = 0; i < A.length; i++)
      for (let k = 0; k < B.length; k++) {
        const a = A[i][k];
        if (a !== 0) for (let j = 0; j < B[0].length; j++) out[i][j] += a * B[k][j];
      }
    return out;
  };
  const combine = (a, A, b, B) => A.map((row, i) => row.map((x, j) => a * x + b * B[i][j]));
  const columns = (A, d) => A.map((row) => row.map((x, j) => x * d[j]));
  const rows = (A, d) => A.map((row, i) => row.map((x) => x * d[i]));
  const trace = (A) => A.reduce((sum, row, i) => sum + row[i], 0);

  /* Solution Z of A Z = B by elimination with partial pivoting. */
  function solve(A, B) {
    const n = A.length;
    const T = A.map((row, i) => [...row, ...B[i]]);
    for (let k = 0; k < n; k++) {
      let p = k;
      for (let i = k + 1; i < n; i++) if (Math.abs(T[i][k]) > Math.abs(T[p][k])) p = i;
      [T[k], T[p]] = [T[p], T[k]];
      for (let i = k + 1; i < n; i++) {
        const f = T[i][k] / T[k][k];
        if (f !== 0) for (let j = k; j < T[k].length; j++) T[i][j] -= f * T[k][j];
      }
    }
    const Z = zeros(n, B[0].length);
    for (let i = n - 1; i >= 0; i--)
      for (let j = 0; j < B[0].length; j++) {
        let s = T[i][n + j];
        for (let k = i + 1; k < n; k++) s -= T[i][k] * Z[k][j];
        Z[i][j] = s / T[i][i];
      }
    return Z;
  }
  const identity = (n) => diagonal(new Array(n).fill(1));

  /* Squared singular values, descending, and right singular vectors (columns) by one-sided Jacobi: small ones keep their digits. */
  function squaredSingular(A) {
    const W = transpose(A).map((row) => Float64Array.from(row)); // rows of W are columns of A
    const n = W.length;
    const V = identity(n);
    for (let sweep = 0; sweep < 60; sweep++) {
      let rotated = false;
      for (let p = 0; p < n; p++)
        for (let q = p + 1; q < n; q++) {
          let a = 0, b = 0, c = 0;
          for (let k = 0; k < W[p].length; k++) {
            a += W[p][k] * W[p][k];
            b += W[q][k] * W[q][k];
            c += W[p][k] * W[q][k];
          }
          if (Math.abs(c) <= 1e-16 * Math.sqrt(a * b) || c === 0) continue;
          rotated = true;
          const z = (b - a) / (2 * c);
          const t = (z >= 0 ? 1 : -1) / (Math.abs(z) + Math.sqrt(1 + z * z));
          const cs = 1 / Math.sqrt(1 + t * t), sn = cs * t;
          for (const X of [W, V])
            for (let k = 0; k < X[p].length; k++) {
              const x = X[p][k], y = X[q][k];
              X[p][k] = cs * x - sn * y;
              X[q][k] = sn * x + cs * y;
            }
        }
      if (!rotated) break;
    }
    const squares = W.map((row) => row.reduce((s, x) => s + x * x, 0));
    const order = squares.map((_, i) => i).sort((i, j) => squares[j] - squares[i]);
    return { values: order.map((i) => squares[i]), V: transpose(order.map((i) => V[i])) };
  }

  /* Dormand and Prince 5(4) in s = log(t + t0), over the outputs `times` (increasing, the first is the start).
   * `field(y)` is dy/dt of a flat Float64Array. Relative tolerance per entry against the norm of the state. */
  const NODES = [
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
  ];
  const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];
  function integrate(field, start, times, t0, tolerance) {
    const scaled = (y, s) => field(y).map((x) => x * Math.exp(s));
    let y = Float64Array.from(start), s = Math.log(times[0] + t0), h = 1e-3, slope = scaled(y, s);
    const out = [Float64Array.from(y)];
    for (const t of times.slice(1)) {
      const end = Math.log(t + t0);
      while (s < end) {
        const last = h >= end - s;
        const step = last ? end - s : h;
        const k = [slope];
        let next = y;
        for (const row of NODES) {
          next = y.map((x, i) => x + step * row.reduce((sum, a, m) => sum + a * k[m][i], 0));
          k.push(scaled(next, s + step * [0.2, 0.3, 0.8, 8 / 9, 1, 1][k.length - 1]));
        }
        let norm = 0, error = 0;
        for (let i = 0; i < y.length; i++) {
          norm = Math.max(norm, Math.abs(next[i]));
          error = Math.max(error, Math.abs(step * ERROR.reduce((sum, e, m) => sum + e * k[m][i], 0)));
        }
        const ratio = error / (tolerance * norm);
        if (!Number.isFinite(ratio)) throw new RangeError("the integration overflows: choose an earlier last time");
        if (ratio <= 1) {
          y = next;
          s = last ? end : s + step;
          slope = k[6];
        }
        const proposal = step * Math.min(5, Math.max(0.2, 0.9 * Math.pow(ratio || 1e-10, -0.2)));
        h = last && ratio <= 1 ? Math.max(h, proposal) : proposal;
      }
      out.push(Float64Array.from(y));
    }
    return out;
  }

  /* v of Phi(v) = level by Newton in log v with bisection as guard; dPhi/d log v is given and positive. */
  function invert(phi, slope, level, guess) {
    let x = Math.log(guess), low = -745, high = 745;
    for (let i = 0; i < 200; i++) {
      const v = Math.exp(x), gap = phi(v) - level;
      if (gap > 0) high = Math.min(high, x);
      else low = Math.max(low, x);
      let next = x - gap / slope(v);
      if (!(next > low && next < high)) next = (low + high) / 2;
      if (Math.abs(next - x) <= 4e-16 * Math.max(1, Math.abs(x))) return Math.exp(next);
      x = next;
    }
    return Math.exp(x);
  }

  /* u(t) of the closed laws for equal classes, from u0, ridge rho = 1 + lambda, kernel ratio r. */
  const CLOSED = {
    renormalized: (u0, t, C, N, rho) => ratioLaw(1)(u0, t, C, N, rho),
    kernel: (u0, t, C, N, rho, r) => ratioLaw(r)(u0, t, C, N, rho),
    embedded: (u0, t, C, N, rho) => {
      const phi = (v) => Math.log(v) + 2 * v + (v * v) / 2;
      const v0 = u0 / rho;
      const level = phi(v0) + (2 * t) / (C * C * N * rho);
      return t === 0 ? u0 : rho * invert(phi, (v) => (1 + v) * (1 + v), level, level > 1 ? Math.sqrt(2 * level) : Math.exp(level));
    },
    /* from Sigma_W = I, without ridge: Sigma_T = I + U diag(u0) U^T is conserved, so mode j has the rate 2 / (C^2 N (1 + u0_j)) */
    unnormalized: (u0, t, C, N) => u0 * Math.exp((2 * t) / (C * C * N * (1 + u0))),
  };
  function ratioLaw(r) {
    const phi = (v) => v + Math.log(v) / r - (((r - 1) * (r - 1)) / r) * Math.log1p(v / r);
    const slope = (v) => ((1 + v) * (1 + v)) / (r + v); // dPhi / d log v
    return (u0, t, C, N, rho) => {
      const v0 = u0 / rho;
      const level = phi(v0) + (2 * t) / (C * C * N * rho);
      return t === 0 ? u0 : rho * invert(phi, slope, level, level > 1 ? level : Math.exp(Math.max(-700, r * level)));
    };
  }

  /* dS/dt = (1/n) S K Pi K (r rho I + G) J, embedded: (r rho I + G) -> rho I. */
  function renormalizedField(pi, n, rho, weight) {
    const C = pi.length, q = pi.map(Math.sqrt), J = identity(C).map((row, i) => row.map((x, j) => x - q[i] * q[j]));
    return (S) => {
      const G = matmul(transpose(S), S);
      const inner = combine(1, G, 1, diagonal(new Array(C).fill(rho)));
      const K = solve(inner, identity(C));
      const last = weight === null ? diagonal(new Array(C).fill(rho)) : combine(1, G, weight * rho, identity(C));
      const A = matmul(matmul(rows(K, new Array(C).fill(1)), rows(matmul(K, last), pi)), J);
      return matmul(S, A).map((row) => row.map((x) => x / n));
    };
  }

  /* Without renormalisation from Sigma_W = I: A = I + S S^T is conserved; M and F with Sigma_W = F F^T move,
   * W = Pi M^T A^{-1}, dM/dt = (1/n) W^T (I - pi 1^T - Pi M^T A^{-1} M) with pi 1^T acting on the classifier's side, dF/dt = -(1/n) W^T W F. */
  function unnormalizedField(pi, n, S0) {
    const C = pi.length, A = combine(1, matmul(S0, transpose(S0)), 1, identity(S0.length));
    return (M, F) => {
      const AinvM = solve(A, M);
      const inner = rows(matmul(transpose(M), AinvM), pi); // Pi M^T A^{-1} M
      const rest = identity(C).map((row, i) => row.map((x, j) => x - pi[i] - inner[i][j]));
      const dM = matmul(columns(AinvM, pi), rest).map((row) => row.map((x) => x / n));
      const Wt = columns(AinvM, pi); // W^T = A^{-1} M Pi
      const dF = matmul(Wt, matmul(transpose(Wt), F)).map((row) => row.map((x) => -x / n));
      return [dM, dF];
    };
  }
  const flat = (matrices) => Float64Array.from(matrices.flatMap((A) => A.flatMap((row) => [...row])));
  const shaped = (y, m, n, offset = 0) =>
    Array.from({ length: m }, (_, i) => y.slice(offset + i * n, offset + (i + 1) * n));

  /* S(t), in the whitened coordinates of each time, for `law` at `times`. Equal classes are closed, others integrated (1e-12 a step). */
  function trajectory(law, problem, times) {
    const { sizes, S0, lambda, r } = problem;
    const n = sizes.reduce((a, b) => a + b, 0), C = sizes.length, pi = sizes.map((x) => x / n), rho = 1 + lambda;
    if (sizes.every((x) => x === sizes[0])) {
      const { values, V } = squaredSingular(S0);
      const K = Math.min(S0.length, C - 1);
      return times.map((t) =>
        Array.from({ length: K }, (_, j) => {
          const u = values[j] > 0 ? CLOSED[law](values[j], t, C, sizes[0], rho, r) : 0;
          return Float64Array.from(V, (row) => Math.sqrt(u) * row[j]);
        }),
      );
    }
    const m = S0.length, q = pi.map(Math.sqrt), t0 = 1e-3 * n;
    if (law === "unnormalized") {
      const field = unnormalizedField(pi, n, S0), M0 = columns(S0, q.map((x) => 1 / x));
      const path = integrate((y) => flat(field(shaped(y, m, C), shaped(y, m, m, m * C))), flat([M0, identity(m)]), times, t0, 1e-12);
      return path.map((y) => solve(shaped(y, m, m, m * C), columns(shaped(y, m, C), q)));
    }
    const field = renormalizedField(pi, n, rho, law === "embedded" ? null : law === "kernel" ? r : 1);
    return integrate((y) => flat([field(shaped(y, m, C))]), flat([S0]), times, t0, 1e-12).map((y) => shaped(y, m, C));
  }

  /* Spectrum, loss and its parts, NC1 and NC2 of one S. Loss parts as on the central path with Sigma_W = I and the ridge. */
  function measures(S, sizes, lambda) {
    const n = sizes.reduce((a, b) => a + b, 0), C = sizes.length, pi = sizes.map((x) => x / n), rho = 1 + lambda;
    const { values, V } = squaredSingular(S);
    const u = values.slice(0, Math.min(S.length, C - 1));
    // c_j = v_j^T Pi v_j: sums over the modes keep the digits that tr(Pi (rho K - q q^T)) would cancel in deep collapse
    const c = u.map((_, j) => pi.reduce((sum, p, i) => sum + p * V[i][j] * V[i][j], 0));
    const missing = u.length < C - 1 ? pi.reduce((sum, p) => sum + p * (1 - p), 0) - c.reduce((x, y) => x + y, 0) : 0;
    const lossNC1 = 0.5 * u.reduce((sum, x, j) => sum + (rho * c[j] * x) / ((rho + x) * (rho + x)), 0);
    const lossNC23 = 0.5 * (missing + u.reduce((sum, x, j) => sum + (rho * rho * c[j]) / ((rho + x) * (rho + x)), 0));
    const M = transpose(columns(S, pi.map((p) => 1 / Math.sqrt(p))));
    const norms = M.map((mean) => Math.hypot(...mean));
    const average = norms.reduce((a, b) => a + b, 0) / C;
    // over one less than their number, as ufm.features.measures; 0 where there is one value
    const spread = (values, mean) => (values.length > 1 ? Math.sqrt(values.reduce((s, x) => s + (x - mean) ** 2, 0) / (values.length - 1)) : 0);
    const cosines = [];
    for (let i = 0; i < C; i++)
      for (let j = 0; j < i; j++) cosines.push(M[i].reduce((s, x, k) => s + x * M[j][k], 0) / (norms[i] * norms[j]));
    const meanCosine = cosines.reduce((a, b) => a + b, 0) / cosines.length;
    return {
      u, loss: lossNC1 + lossNC23, lossNC1, lossNC23,
      nc1: u.reduce((s, x) => s + 1 / x, 0) / C,
      equinorm: spread(norms, average) / average,
      equiangular: spread(cosines, meanCosine),
      means: M,
    };
  }

  /* Reproducible start: Gaussian S with S q = 0, scaled to the mean u wanted; mulberry32 and Box-Muller. */
  function start(sizes, P, seed, meanU, spreadU) {
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let x = Math.imul(state ^ (state >>> 15), state | 1);
      x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
      return (((x ^ (x >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
    const gauss = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    const n = sizes.reduce((a, b) => a + b, 0), C = sizes.length, q = sizes.map((x) => Math.sqrt(x / n));
    const K = Math.min(P, C - 1);
    const A = Array.from({ length: K }, () => {
      const row = Array.from({ length: C }, gauss);
      const dot = row.reduce((s, x, j) => s + x * q[j], 0);
      return Float64Array.from(row, (x, j) => x - dot * q[j]);
    });
    const { V } = squaredSingular(A); // orthonormal directions; singular values are set to the spread wanted
    return Array.from({ length: K }, (_, j) => {
      const e = K === 1 ? 0 : 0.5 - j / (K - 1);
      return Float64Array.from(V, (row) => Math.sqrt(meanU * Math.pow(spreadU, e)) * row[j]);
    });
  }

  root.laws = { trajectory, measures, start, squaredSingular, CLOSED, NAMES: ["renormalized", "kernel", "embedded", "unnormalized"] };
  if (typeof module !== "undefined" && module.exports) module.exports = root.laws;
})(typeof window !== "undefined" ? window : globalThis);
