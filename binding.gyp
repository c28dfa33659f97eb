{
  # `node-gyp rebuild` leads to the one build there is: CMakeLists.txt through cmake-js.
  'targets': [
    {
      'target_name': 'hadal',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake',
          'inputs': ['CMakeLists.txt'],
          'outputs': ['build/Release/hadal.node'],
          'action': ['node', 'scripts/build-native.mjs'],
        },
      ],
    },
  ],
}
