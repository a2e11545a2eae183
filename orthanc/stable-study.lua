-- Tells Radnode that a study has become stable. Needs no plugin; works on Orthanc 1.10 and later.
--
-- Only Orthanc's own id of the study leaves: no name, no DICOM UID. When the call fails it is logged and not
-- repeated, because Radnode reads Orthanc's change feed and makes up for every call it has missed.

local settings = (GetOrthancConfiguration() or {})['Radnode'] or {}
local before = OnStableStudy -- scripts of one Orthanc share their functions: one that was read earlier is called too

local function tell(studyId)
  if not settings['Url'] or not settings['Orthanc'] then
    print('Radnode: no "Radnode" section with "Url" and "Orthanc" in the configuration, nobody is told')
    return
  end

  -- Callbacks of all scripts wait for each other, so this one must not wait long. SetHttpTimeout came with
  -- Orthanc 1.11.1; before, "HttpTimeout" of the configuration holds.
  if SetHttpTimeout then
    SetHttpTimeout(settings['TimeoutSeconds'] or 5)
  end

  local url = string.gsub(settings['Url'], '/+$', '') .. '/orthanc/stable-study'
  local body = DumpJson({ orthanc = settings['Orthanc'], study = studyId })
  local headers = {
    ['Content-Type'] = 'application/json',
    ['Authorization'] = 'Bearer ' .. (settings['Secret'] or '')
  }

  local called, answer = pcall(HttpPost, url, body, headers)
  if not called or answer == nil then
    print('Radnode: was not told of study ' .. studyId .. '; it will find it in the change feed')
  end
end

function OnStableStudy(studyId, tags, metadata, origin)
  tell(studyId)
  if before then
    before(studyId, tags, metadata, origin)
  end
end
