/** What a case did that none may do. */
export interface Finding {
  target: string;
  seed: number;
  what: string;
}

export function fuzz(target: string, options: { seed: number; count: number }): Promise<Finding[]>;
