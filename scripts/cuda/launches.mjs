/** @returns {import('./budgets.mjs').Launched} */
export const launchedShared = () => new Map();
