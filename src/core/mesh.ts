// The device mesh: processes in as many dims as there are ways to divide the work.

/**
 * Axes of the mesh, outermost first, each with a process group of its own on a device; numbers shared with
 * native/core/process-group.h. dp: rows of data; tp: tensors of a layer; pp: layers; ep: experts.
 */
export const meshAxes = ['dp', 'tp', 'pp', 'ep'] as const;

export type MeshAxis = (typeof meshAxes)[number];
