/**
 * What OHIF's libraries make of our objects, and what they write after somebody edited them.
 *
 *   node ohif.mjs read-seg  IMAGES SEG OUT.json           segments and voxels
 *   node ohif.mjs read-sr   IMAGES SR  OUT.json           outlines and numbers
 *   node ohif.mjs edit-seg  IMAGES SEG OUT.dcm [rle]      segment 1 grown by two columns to the right
 *   node ohif.mjs edit-sr   IMAGES SR  OUT.dcm            outlines moved by two pixels
 *
 * IMAGES is a folder of single-frame images of one series. In edits the words about a segment are those that OHIF's Segmentation panel gives.
 */
import fs from 'node:fs';
import path from 'node:path';
import dcmjs from 'dcmjs';
import { cache, imageLoader, metaData, utilities } from '@cornerstonejs/core';
import { adaptersSEG, adaptersSR } from '@cornerstonejs/adapters';

const [action, folder, object, out, syntax] = process.argv.slice(2);
const { DicomMessage, DicomMetaDictionary } = dcmjs.data;
console.log = () => {}; // the adapters print what they read

function dataset(file) {
  const bytes = fs.readFileSync(file);
  const read = DicomMessage.readFile(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const ds = DicomMetaDictionary.naturalizeDataset(read.dict);
  ds._meta = DicomMetaDictionary.namifyDataset(read.meta);
  return ds;
}

// --- the series, as a viewer knows it --------------------------------------------------------------------------------
const images = new Map();
for (const name of fs.readdirSync(folder)) {
  const ds = dataset(path.join(folder, name));
  images.set(`image:${ds.SOPInstanceUID}`, ds);
}
const along = ds => {
  const [a, b, c, d, e, f] = (ds.ImageOrientationPatient ?? [1, 0, 0, 0, 1, 0]).map(Number);
  const [x, y, z] = (ds.ImagePositionPatient ?? [0, 0, 0]).map(Number);
  return x * (b * f - c * e) + y * (c * d - a * f) + z * (a * e - b * d);
};
const imageIds = [...images.keys()].sort((a, b) => along(images.get(a)) - along(images.get(b)));

const modules = {
  instance: ds => ds,
  imagePlaneModule: ds => {
    const orientation = (ds.ImageOrientationPatient ?? [1, 0, 0, 0, 1, 0]).map(Number);
    const spacing = (ds.PixelSpacing ?? ds.ImagerPixelSpacing ?? [1, 1]).map(Number);
    return {
      frameOfReferenceUID: ds.FrameOfReferenceUID,
      rows: ds.Rows,
      columns: ds.Columns,
      imageOrientationPatient: orientation,
      rowCosines: orientation.slice(0, 3),
      columnCosines: orientation.slice(3),
      imagePositionPatient: (ds.ImagePositionPatient ?? [0, 0, 0]).map(Number),
      pixelSpacing: spacing,
      rowPixelSpacing: spacing[0],
      columnPixelSpacing: spacing[1],
    };
  },
  imagePixelModule: ds => ({ bitsAllocated: ds.BitsAllocated, samplesPerPixel: 1, pixelRepresentation: ds.PixelRepresentation }),
  generalSeriesModule: ds => ({ seriesInstanceUID: ds.SeriesInstanceUID, modality: ds.Modality }),
  generalImageModule: ds => ({ sopInstanceUID: ds.SOPInstanceUID, sopClassUID: ds.SOPClassUID, instanceNumber: ds.InstanceNumber }),
  sopCommonModule: ds => ({ sopInstanceUID: ds.SOPInstanceUID, sopClassUID: ds.SOPClassUID }),
  generalStudyModule: ds => ({ studyInstanceUID: ds.StudyInstanceUID }),
  frameNumber: () => 1,
  StudyData: ds => pick(ds, ['PatientName', 'PatientID', 'PatientBirthDate', 'PatientSex', 'StudyInstanceUID', 'StudyDate', 'StudyTime', 'StudyID', 'AccessionNumber']),
  SeriesData: ds => pick(ds, ['SeriesInstanceUID', 'SeriesNumber', 'Modality', 'FrameOfReferenceUID']),
  ImageData: ds => {
    const { PixelData, ...rest } = ds;
    return rest;
  },
};
const pick = (ds, names) => Object.fromEntries(names.filter(name => ds[name] !== undefined).map(name => [name, ds[name]]));
const known = new Map(images);
const get = (type, id) => (known.has(id) ? modules[type]?.(known.get(id)) : undefined);
metaData.addProvider(get, 10000);
const metadataProvider = { get: (type, id) => metaData.get(type, id), add: (id, type, value) => known.set(id, value) };

// --- segmentations ------------------------------------------------------------------------------------------------------
async function labels(ds) {
  const frame = ds.Rows * ds.Columns;
  const stored = new Uint8Array(Array.isArray(ds.PixelData) ? ds.PixelData[0] : ds.PixelData);
  const decodeImageData = (_, number) => {
    if (Number(ds.BitsAllocated) === 1) {
      const bits = new Uint8Array(frame);
      for (let i = 0, at = (number - 1) * frame; i < frame; i++, at++) bits[i] = (stored[at >> 3] >> (at & 7)) & 1;
      return bits;
    }
    return stored.slice((number - 1) * frame, number * frame);
  };
  known.set('seg', ds);
  return adaptersSEG.Cornerstone3D.Segmentation.createFromDicomSegImageId(imageIds, 'seg', {
    metadataProvider,
    frameImageIds: Array.from({ length: ds.NumberOfFrames }, (_, at) => `seg:${at + 1}`),
    decodeImageData,
  });
}

const segmentsOf = ds => (Array.isArray(ds.SegmentSequence) ? ds.SegmentSequence : [ds.SegmentSequence]);

async function readSeg() {
  const ds = dataset(object);
  const found = await labels(ds);
  const voxels = {};
  for (const layer of found.labelMapImages)
    layer.forEach((image, at) => {
      const uid = images.get(imageIds[at]).SOPInstanceUID;
      image.getPixelData().forEach((number, index) => {
        if (number) ((voxels[number] ??= {})[uid] ??= []).push(index);
      });
    });
  const segments = segmentsOf(ds).map(one => ({ number: one.SegmentNumber, label: one.SegmentLabel }));
  fs.writeFileSync(out, JSON.stringify({ segments, voxels, overlapping: found.overlappingSegments }));
}

async function editSeg() {
  const ds = dataset(object);
  const found = await labels(ds);
  const layers = found.labelMapImages.map(layer => {
    const labelmaps2D = [];
    layer.forEach((image, at) => {
      const before = image.getPixelData();
      const pixelData = Uint8Array.from(before, (number, i) => number || (before[i - 1] === 1 || before[i - 2] === 1 ? 1 : 0));
      const segmentsOnLabelmap = [...new Set(pixelData)].filter(Boolean);
      if (segmentsOnLabelmap.length) labelmaps2D[at] = { segmentsOnLabelmap, rows: ds.Rows, columns: ds.Columns, pixelData };
    });
    return labelmaps2D;
  });
  const tissue = { CodeValue: '85756007', CodingSchemeDesignator: 'SCT', CodeMeaning: 'Tissue' };
  const metadata = [undefined, ...segmentsOf(ds).map(one => ({
    SegmentNumber: String(one.SegmentNumber),
    SegmentLabel: one.SegmentLabel,
    SegmentAlgorithmType: 'MANUAL',
    SegmentAlgorithmName: 'OHIF Brush',
    SegmentedPropertyCategoryCodeSequence: tissue,
    SegmentedPropertyTypeCodeSequence: tissue,
  }))];
  const labelmaps = layers.map(labelmaps2D => ({ labelmaps2D, metadata }));
  const pictures = imageIds.map(imageId => ({ imageId, voxelManager: { getScalarData: () => new Uint16Array(ds.Rows * ds.Columns) } }));
  const options = { SeriesDescription: 'Edited', SeriesNumber: '300', InstanceNumber: '1', Manufacturer: 'OHIF-Viewer 3.13.2' };
  if (syntax === 'rle') options.transferSyntaxUid = '1.2.840.10008.1.2.5';
  if (ds.SegmentationType === 'LABELMAP') options.sopClassUID = ds.SOPClassUID;
  const made = adaptersSEG.Cornerstone3D.Segmentation.generateSegmentation(pictures, labelmaps, metadataProvider, options);
  write(made.dataset);
}

// --- reports ------------------------------------------------------------------------------------------------------------
const { MeasurementReport, PlanarFreehandROI } = adaptersSR.Cornerstone3D;

function measured() {
  const ds = dataset(object);
  const places = Object.fromEntries(imageIds.map(id => [`${images.get(id).SOPInstanceUID}:1`, id]));
  for (const group of groupsOf(ds)) {
    // the adapters want coordinates below a number (TID 300); in ours they stand beside it (TID 1410), and OHIF draws them itself
    const outline = group.ContentSequence.find(item => item.ValueType === 'SCOORD');
    for (const number of group.ContentSequence.filter(item => item.ValueType === 'NUM')) number.ContentSequence = outline;
  }
  const state = MeasurementReport.generateToolState(ds, places, metadataProvider, { getToolClass: () => PlanarFreehandROI });
  return state.PlanarFreehandROI ?? [];
}

const groupsOf = ds => asList(asList(ds.ContentSequence).find(item => item.ConceptNameCodeSequence.CodeValue === '126010')?.ContentSequence);
const asList = value => (Array.isArray(value) ? value : value ? [value] : []);

function readSr() {
  const groups = groupsOf(dataset(object));
  const found = measured().map((one, at) => ({
    tracking: one.TrackingUniqueIdentifier,
    finding: one.finding?.CodeValue,
    image: one.sopInstanceUid,
    closed: one.annotation.data.contour.closed,
    outline: one.annotation.data.contour.polyline.map(point => utilities.worldToImageCoords(one.annotation.metadata.referencedImageId, point)),
    numbers: Object.fromEntries(
      asList(groups[at].ContentSequence)
        .filter(item => item.ValueType === 'NUM')
        .map(item => [item.ConceptNameCodeSequence.CodeMeaning, Number(asList(item.MeasuredValueSequence)[0].NumericValue)])
    ),
  }));
  fs.writeFileSync(out, JSON.stringify(found));
}

function editSr() {
  const state = {};
  for (const one of measured()) {
    const id = one.annotation.metadata.referencedImageId;
    const plane = modules.imagePlaneModule(images.get(id));
    const by = plane.rowCosines.map(cosine => 2 * plane.columnPixelSpacing * cosine);
    const contour = { closed: true, polyline: one.annotation.data.contour.polyline.map(point => point.map((value, axis) => value + by[axis])) };
    ((state[id] ??= {}).PlanarFreehandROI ??= { data: [] }).data.push({
      ...one.annotation,
      finding: one.finding,
      findingSites: one.findingSites,
      data: { ...one.annotation.data, contour, cachedStats: { [`imageId:${id}`]: { area: 12.5, areaUnit: 'mm2' } } },
    });
  }
  const options = { SeriesDescription: 'Edited', SeriesNumber: '301', InstanceNumber: '1' };
  write(MeasurementReport.generateReport(state, metadataProvider, options).dataset);
}

function write(ds) {
  fs.writeFileSync(out, Buffer.from(dcmjs.data.datasetToDict(ds).write()));
}

await { 'read-seg': readSeg, 'read-sr': readSr, 'edit-seg': editSeg, 'edit-sr': editSr }[action]();
process.exit(0);
