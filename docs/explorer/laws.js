/* The exact laws of the means on the central path, for the explorer page. Plain functions over arrays of rows, no dependencies.
 *
 * S = Sigma_W^{-1/2} (M - mu_G 1^T) diag(sqrt(pi)) is (K x C), G = S^T S has the eigenvalues u_j (equal classes: omega_j^2 / C),
 * rho = 1 + lambda, K = (rho I + G)^{-1}, J = I - q q^T, q = sqrt(pi). Derivations: docs/mathematics.md and its part two.
 * Loads as a classic script (global `laws`), so that the page runs from a file, and as a CommonJS module.
 */
"use strict";
(function (root) {
  const columns = (A, d) => A.map((row) => row.map((x, j) => x * d[j]));
  const transpose = (A) => Array.from(A[0], (_, j) => Float64Array.from(A, (row) => row[j]));

  /* A B^T of row-major flat matrices, (m x k) and (n x k), into out (m x n). */
  function timesTransposed(A, B, m, n, k, out) {
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let l = 0, a = i * k, b = j * k; l < k; l++) sum += A[a++] * B[b++];
        out[i * n + j] = sum;
      }
    return out;
  }
  /* A B of row-major flat matrices, (m x k) and (k x n), into out (m x n). */
  function times(A, B, m, n, k, out) {
    out.fill(0);
    for (let i = 0; i < m; i++)
      for (let l = 0; l < k; l++) for (let j = 0, a = A[i * k + l], o = i * n, b = l * n; j < n; j++) out[o++] += a * B[b++];
    return out;
  }

  /* Lower Cholesky factor of the symmetric A (n x n, flat), in its lower half. */
  function cholesky(A, n) {
    for (let i = 0; i < n; i++)
      for (let j = 0; j <= i; j++) {
        let s = A[i * n + j];
        for (let k = 0; k < j; k++) s -= A[i * n + k] * A[j * n + k];
        A[i * n + j] = i === j ? Math.sqrt(s) : s / A[j * n + j];
      }
    return A;
  }
  /* Every row x of X (m x n, flat) becomes (L L^T)^{-1} x. */
  function solveRows(L, X, m, n) {
    for (let o = 0; o < m * n; o += n) {
      for (let i = 0; i < n; i++) {
        let s = X[o + i];
        for (let k = 0; k < i; k++) s -= L[i * n + k] * X[o + k];
        X[o + i] = s / L[i * n + i];
      }
      for (let i = n - 1; i >= 0; i--) {
        const x = (X[o + i] /= L[i * n + i]);
        for (let k = 0; k < i; k++) X[o + k] -= L[i * n + k] * x;
      }
    }
    return X;
  }

  /* Solution Z of A Z = B, arrays of rows, by elimination with partial pivoting. */
  function solve(A, B) {
    const n = A.length, width = n + B[0].length;
    const T = A.map((row, i) => Float64Array.from([...row, ...B[i]]));
    for (let k = 0; k < n; k++) {
      let p = k;
      for (let i = k + 1; i < n; i++) if (Math.abs(T[i][k]) > Math.abs(T[p][k])) p = i;
      [T[k], T[p]] = [T[p], T[k]];
      for (let i = k + 1; i < n; i++) {
        const f = T[i][k] / T[k][k];
        if (f !== 0) for (let j = k; j < width; j++) T[i][j] -= f * T[k][j];
      }
    }
    for (let i = n - 1; i >= 0; i--)
      for (let j = n; j < width; j++) {
        for (let k = i + 1; k < n; k++) T[i][j] -= T[i][k] * T[k][j];
        T[i][j] /= T[i][i];
      }
    return T.map((row) => row.slice(n));
  }

  /* One-sided Jacobi: rotates the vectors W (in place) until all are orthogonal; the vectors V, where given, turn with them. */
  function orthogonalize(W, V) {
    for (let sweep = 0; sweep < 60; sweep++) {
      let rotated = false;
      for (let p = 0; p < W.length; p++)
        for (let q = p + 1; q < W.length; q++) {
          const x = W[p], y = W[q];
          let a = 0, b = 0, c = 0;
          for (let k = 0; k < x.length; k++) {
            a += x[k] * x[k];
            b += y[k] * y[k];
            c += x[k] * y[k];
          }
          if (Math.abs(c) <= 1e-16 * Math.sqrt(a * b) || c === 0) continue;
          rotated = true;
          const z = (b - a) / (2 * c);
          const t = (z >= 0 ? 1 : -1) / (Math.abs(z) + Math.sqrt(1 + z * z));
          const cs = 1 / Math.sqrt(1 + t * t);
          rotate(x, y, cs, cs * t);
          if (V) rotate(V[p], V[q], cs, cs * t);
        }
      if (!rotated) break;
    }
  }
  function rotate(x, y, cs, sn) {
    for (let k = 0; k < x.length; k++) {
      const a = x[k], b = y[k];
      x[k] = cs * a - sn * b;
      y[k] = sn * a + cs * b;
    }
  }

  /* Squared singular values, descending, and right singular vectors (columns of V): small ones keep their digits. With fewer rows
   * than columns as many values as rows; V is 0 where such a value is. */
  function squaredSingular(A) {
    const n = A[0].length, wide = A.length < n;
    const W = wide ? A.map((row) => Float64Array.from(row)) : transpose(A);
    const V = wide ? W : Array.from({ length: n }, (_, i) => Float64Array.from({ length: n }, (_, j) => (i === j ? 1 : 0)));
    orthogonalize(W, wide ? null : V);
    const squares = W.map((row) => row.reduce((s, x) => s + x * x, 0));
    const order = squares.map((_, i) => i).sort((i, j) => squares[j] - squares[i]);
    const unit = (i) => (wide && squares[i] > 0 ? V[i].map((x) => x / Math.sqrt(squares[i])) : V[i]);
    return { values: order.map((i) => squares[i]), V: transpose(order.map(unit)) };
  }

  /* Dormand and Prince 5(4) in s = log(t + t0), over the outputs `times` (increasing, the first is the start).
   * `field(y, out)` writes dy/dt of a flat Float64Array into `out`. The error of a step is at most `tolerance` times the largest
   * entry. Ends early after the first output for which `done(y)` holds. */
  const NODES = [
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
  ];
  const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];
  const WHEN = [0.2, 0.3, 0.8, 8 / 9, 1, 1];
  function integrate(field, start, times, t0, tolerance, done) {
    const size = start.length, estimate = new Float64Array(size), k = Array.from({ length: 7 }, () => new Float64Array(size));
    const slope = (y, s, out) => {
      field(y, out);
      const scale = Math.exp(s);
      for (let i = 0; i < size; i++) out[i] *= scale;
    };
    let y = Float64Array.from(start), next = new Float64Array(size), s = Math.log(times[0] + t0), h = 1e-3;
    slope(y, s, k[0]);
    const out = [Float64Array.from(y)];
    for (const t of times.slice(1)) {
      if (done && done(y)) break;
      const end = Math.log(t + t0);
      while (s < end) {
        const last = h >= end - s, step = last ? end - s : h;
        for (let stage = 0; stage < 6; stage++) {
          weighted(NODES[stage], k, step, next);
          for (let i = 0; i < size; i++) next[i] += y[i];
          slope(next, s + step * WHEN[stage], k[stage + 1]);
        }
        const error = largest(weighted(ERROR, k, step, estimate));
        const ratio = error / (tolerance * largest(next));
        if (!Number.isFinite(ratio)) throw new RangeError("the integration overflows: choose an earlier last time");
        if (ratio <= 1) {
          [y, next] = [next, y];
          [k[0], k[6]] = [k[6], k[0]];
          s = last ? end : s + step;
        }
        const proposal = step * Math.min(5, Math.max(0.2, 0.9 * Math.pow(ratio || 1e-10, -0.2)));
        h = last && ratio <= 1 ? Math.max(h, proposal) : proposal;
      }
      out.push(Float64Array.from(y));
    }
    return out;
  }
  /* step * sum_m weights[m] k[m] */
  function weighted(weights, k, step, out) {
    out.fill(0);
    for (let m = 0; m < weights.length; m++) {
      const a = step * weights[m], slope = k[m];
      if (a !== 0) for (let i = 0; i < out.length; i++) out[i] += a * slope[i];
    }
    return out;
  }
  function largest(y) {
    let most = 0;
    for (let i = 0; i < y.length; i++) {
      const x = Math.abs(y[i]);
      if (!(x <= most)) most = x; // a value that is no number stays
      if (most !== most) return NaN;
    }
    return most;
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

  /* Orthonormal basis (columns) of the complement of the unit vector q, all but the last columns of a reflection of q to -e_C,
   * as C rows of C - 1 numbers. S q = 0 at all times, so that S = X basis^T with X of K x (C - 1). */
  function complement(q) {
    const w = Float64Array.from(q);
    w[w.length - 1] += 1;
    const square = w.reduce((s, x) => s + x * x, 0);
    return Array.from(w, (x, i) => Float64Array.from(w.slice(0, -1), (z, j) => (i === j ? 1 : 0) - (2 * x * z) / square));
  }
  const flat = (A) => Float64Array.from(A.flatMap((row) => [...row]));
  const shaped = (y, m, n, offset = 0) =>
    Array.from({ length: m }, (_, i) => y.slice(offset + i * n, offset + (i + 1) * n));

  /* dX/dt = X K P (a I + b K) / n with K = (rho I + X^T X)^{-1} and P = basis^T Pi basis (d x d, flat).
   * (r rho I + X^T X) K = I + (r - 1) rho K, so that a = 1, b = (r - 1) rho; embedded: a = 0, b = rho. */
  function renormalizedField(P, m, d, n, rho, a, b) {
    const L = new Float64Array(d * d), B = new Float64Array(m * d), D = new Float64Array(m * d);
    return (X, out) => {
      L.fill(0);
      for (let l = 0; l < m; l++)
        for (let i = 0; i < d; i++) for (let j = 0, x = X[l * d + i]; j <= i; j++) L[i * d + j] += x * X[l * d + j];
      for (let i = 0; i < d; i++) L[i * d + i] += rho;
      cholesky(L, d);
      B.set(X);
      times(solveRows(L, B, m, d), P, m, d, d, D);
      for (let i = 0; i < m * d; i++) out[i] = (a * D[i]) / n;
      if (b === 0) return;
      solveRows(L, D, m, d);
      for (let i = 0; i < m * d; i++) out[i] += (b * D[i]) / n;
    };
  }

  /* Without renormalisation from Sigma_W = I: A = I + X X^T is conserved, diagonal where the rows of X are orthogonal at the start.
   * M = X basis^T diag(q)^{-1} and F with Sigma_W = F F^T move; with B = A^{-1} X and E = B P B^T:
   * dX/dt = (B P - E X) / n, dF/dt = -E F / n. */
  function unnormalizedField(P, m, d, n, u) {
    const B = new Float64Array(m * d), D = new Float64Array(m * d), E = new Float64Array(m * m);
    const EX = new Float64Array(m * d), EF = new Float64Array(m * m);
    return (y, out) => {
      const X = y.subarray(0, m * d);
      for (let i = 0; i < m * d; i++) B[i] = X[i] / (1 + u[Math.floor(i / d)]);
      times(B, P, m, d, d, D);
      timesTransposed(D, B, m, m, d, E);
      times(E, X, m, d, m, EX);
      times(E, y.subarray(m * d), m, m, m, EF);
      for (let i = 0; i < m * d; i++) out[i] = (D[i] - EX[i]) / n;
      for (let i = 0; i < m * m; i++) out[m * d + i] = -EF[i] / n;
    };
  }

  /* S(t), in the whitened coordinates of each time, for `law` at `times`. Equal classes are closed, others integrated.
   * The integrated law without renormalisation grows exponentially and ends at the first of the times where |S|^2 is beyond 1e14. */
  function trajectory(law, problem, times) {
    const { sizes, S0, lambda, r } = problem;
    const n = sizes.reduce((a, b) => a + b, 0), C = sizes.length, pi = sizes.map((x) => x / n), rho = 1 + lambda;
    const { values, V } = squaredSingular(S0);
    const K = Math.min(S0.length, C - 1), u = values.slice(0, K);
    const modes = (squares) => u.map((_, j) => Float64Array.from(V, (row) => Math.sqrt(squares[j]) * row[j]));
    if (sizes.every((x) => x === sizes[0]))
      return times.map((t) => modes(u.map((x) => (x > 0 ? CLOSED[law](x, t, C, sizes[0], rho, r) : 0))));
    const basis = complement(pi.map(Math.sqrt)), inBasis = transpose(basis), d = C - 1, t0 = 1e-3 * n;
    const product = (A, B) => A.map((x) => Float64Array.from(B, (y) => y.reduce((sum, z, k) => sum + z * x[k], 0))); // A B^T
    const P = flat(product(columns(inBasis, pi), inBasis)), X0 = product(modes(u), inBasis);
    const back = (X) => product(X, basis);
    if (law === "unnormalized") {
      const whitened = (y) => solve(shaped(y, K, K, K * d), shaped(y, K, d)); // F^{-1} X
      const done = (y) => !(whitened(y).reduce((sum, row) => row.reduce((s, x) => s + x * x, sum), 0) < 1e14);
      const y0 = [...X0, ...X0.map((_, i) => Float64Array.from(X0, (_, j) => (i === j ? 1 : 0)))];
      // 1e-14 of the largest entry: the smallest of F, of order 1 / omega, decide the digits of S
      const path = integrate(unnormalizedField(P, K, d, n, u), flat(y0), times, t0, 1e-14, done);
      return path.map((y) => back(whitened(y)));
    }
    const [a, b] = law === "embedded" ? [0, rho] : [1, law === "kernel" ? (r - 1) * rho : 0];
    return integrate(renormalizedField(P, K, d, n, rho, a, b), flat(X0), times, t0, 1e-12).map((y) => back(shaped(y, K, d)));
  }

  /* Spectrum, loss and its parts, NC1 and NC2 of one S. Loss parts as on the central path with Sigma_W = I and the ridge. */
  function measures(S, sizes, lambda) {
    const n = sizes.reduce((a, b) => a + b, 0), C = sizes.length, pi = sizes.map((x) => x / n), rho = 1 + lambda;
    const { values, V } = squaredSingular(S);
    const u = values.slice(0, Math.min(S.length, C - 1));
    // c_j = v_j^T Pi v_j: sums over the modes keep the digits that tr(Pi (rho K - q q^T)) would cancel in deep collapse
    const c = u.map((_, j) => pi.reduce((sum, p, i) => sum + p * V[i][j] * V[i][j], 0));
    const missing = u.length < C - 1 || u.includes(0) ? pi.reduce((sum, p) => sum + p * (1 - p), 0) - c.reduce((x, y) => x + y, 0) : 0;
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
