import { z } from 'zod';

/** JSON schema, as zod writes it. */
export type JsonSchema = z.core.JSONSchema.JSONSchema;

/** The JSON schema of what a zod schema takes, draft 7. */
export function jsonSchemaOf(schema: z.ZodType): JsonSchema {
  return z.toJSONSchema(schema, {
    io: 'input',
    target: 'draft-7',
    override: ({ jsonSchema }) => {
      // What every number of JavaScript keeps says nothing.
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
    },
  });
}
